"""Event files of real runs, read by the tensorboard package. MEZZO names the binary, PYTHON a Python that has tensorboard."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77  # as ctest knows it
MEZZO, PYTHON = os.environ["MEZZO"], os.environ["PYTHON"]
TINY = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--vocab-size", "300", "--batch", "4",
        "--eval-batches", "2", "--eval-every", "4", "--sample-tokens", "0"]
TEXT = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(3000))
READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
print(json.dumps({tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))
"""
READ_HISTOGRAMS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'histograms': 0})
events.Reload()
print(json.dumps({tag: [(e.step, e.histogram_value.num, list(e.histogram_value.bucket)) for e in events.Histograms(tag)]
                  for tag in events.Tags()['histograms']}))
"""


class TensorBoard(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "text.txt").write_text(TEXT)

    def mezzo(self, *arguments):
        environment = {**os.environ, "MEZZO_CACHE": str(self.folder / "cache")}
        done = subprocess.run([MEZZO, *map(str, arguments)], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def train(self, *arguments):
        self.mezzo("train", "--data", self.folder / "text.txt", "--out", self.folder / "run", *TINY, *arguments)

    def scalars(self):
        done = subprocess.run([PYTHON, "-c", READ, self.folder / "run"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def rows(self, key):
        rows = map(json.loads, (self.folder / "run" / "metrics.jsonl").read_text().splitlines())
        return [(row["step"], row[key]) for row in rows if key in row]

    def assert_same(self, tag, key):
        shown, written = self.scalars()[tag], self.rows(key)
        self.assertEqual([step for step, _ in shown], [step for step, _ in written])
        for (_, a), (_, b) in zip(shown, written):
            self.assertAlmostEqual(a, b, delta=abs(b) * 2**-24)  # half a step of the float that the file holds

    def test_it_reads_every_step_and_evaluation(self):
        self.train("--steps", 12)
        for tag, key in [("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("train/lr", "lr"),
                         ("perf/step_ms", "step_ms"), ("val/loss", "val_loss"), ("val/accuracy", "val_accuracy")]:
            with self.subTest(tag):
                self.assert_same(tag, key)

    def test_it_reads_the_magnitudes_of_the_gradients(self):
        self.train("--steps", 8)
        done = subprocess.run([PYTHON, "-c", READ_HISTOGRAMS, self.folder / "run"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        shown = json.loads(done.stdout)["train/gradients_log2"]
        rows = [json.loads(row) for row in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]
        written = [row["gradients"] for row in rows if "gradients" in row]
        self.assertEqual([step for step, *_ in shown], [4, 8])
        self.assertEqual([number for _, number, _ in shown], [sum(row["counts"]) for row in written])
        for _, number, counts in shown:
            self.assertEqual(sum(counts), number)

    def test_after_a_resume_from_an_older_checkpoint_each_step_is_there_once(self):
        self.train("--steps", 12, "--checkpoint-every", 4, "--keep-checkpoints", 9)
        self.mezzo("train", "--resume", self.folder / "run" / "checkpoints" / "step-000004", "--steps", 12)
        self.assert_same("train/loss", "loss")


if __name__ == "__main__":
    if not os.path.exists(PYTHON):
        print(f"no {PYTHON}: scripts/setup.sh tests")
        sys.exit(SKIPPED)
    unittest.main()
