"""The watch in Python PyTorch: each program runs in an interpreter of its own, as a user's would."""

import os
import subprocess
import sys
import textwrap
import unittest

LIBRARY = os.environ["MEZZO_WATCH"]
SOURCE = os.environ["MEZZO_SOURCE"]
PYTHON = f"{SOURCE}/.venv-peers/bin/python"
SKIPPED = 77
START = f"""
import torch
torch.manual_seed(0)
torch.ops.load_library({LIBRARY!r})
torch.ops.mezzo.watch_start()
"""


def run(program, start=START):
    return subprocess.run([PYTHON, "-c", start + textwrap.dedent(program)], capture_output=True, text=True, timeout=300)


class WatchOpsTest(unittest.TestCase):
    def report_of(self, program):
        done = run(textwrap.dedent(program) + "\nprint(torch.ops.mezzo.watch_report())")
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_names_an_overflow_in_the_forward_pass(self):
        report = self.report_of("""
            layer = torch.nn.Linear(8, 8).half()
            for name, parameter in layer.named_parameters():
                torch.ops.mezzo.watch_name(name, parameter)
            scores = torch.exp(layer(torch.full((4, 8), 300.0, dtype=torch.half)) * 2)
            (scores / scores.sum()).float().sum().backward()
        """)
        self.assertRegex(report, r"aten::exp \[fp16\], forward, near (weight|bias): overflow")

    def test_names_a_division_of_zero_by_a_vanished_eps(self):
        report = self.report_of("""
            x = torch.zeros(2, 8, dtype=torch.half, requires_grad=True)
            y = x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)
            y.float().sum().backward()
        """)
        self.assertIn("aten::div [fp16], forward", report)

    def test_names_a_nan_in_the_batch(self):
        report = self.report_of("""
            torch.ops.mezzo.watch_stop()  # or it would name the line that puts the NaN there
            batch = torch.randn(4, 8)
            batch[2, 3] = float("nan")
            torch.ops.mezzo.watch_start()
            torch.ops.mezzo.watch_name("batch", batch)
            torch.nn.Linear(8, 2)(batch).sum().backward()
        """)
        self.assertIn("batch [fp32]: not finite before the step", report)

    def test_finds_nothing_in_a_healthy_program(self):
        report = self.report_of("""
            model = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            optimizer = torch.optim.AdamW(model.parameters())
            mask = torch.nn.Transformer.generate_square_subsequent_mask(6)
            for _ in range(5):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(torch.randn(3, 6, 16), src_mask=mask).float().pow(2).mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        """)
        self.assertIn("nothing found", report)

    def test_what_nobody_asked_for_is_told_at_the_end(self):
        done = run("(torch.zeros(3) / torch.zeros(3)).sum()")
        self.assertEqual(done.returncode, 0)
        self.assertIn("aten::div", done.stderr)

    def test_an_exception_of_the_program_leaves_it_usable(self):
        report = self.report_of("""
            try:
                torch.ones(2, 3) @ torch.ones(2, 3)
            except RuntimeError:
                pass
            torch.log(torch.zeros(2)).sum()
        """)
        self.assertIn("aten::log", report)

    def test_is_refused_in_words(self):
        done = run("torch.ops.mezzo.watch_start()")
        self.assertIn("a watch is on. Hint: watch_report() or watch_stop() ends it", done.stderr)
        done = run("torch.ops.mezzo.watch_stop()\ntorch.ops.mezzo.watch_report()")
        self.assertIn("no watch is on. Hint: torch.ops.mezzo.watch_start()", done.stderr)

    def test_the_example_names_its_fault(self):
        done = subprocess.run([PYTHON, f"{SOURCE}/examples/find_nan.py", LIBRARY], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"aten::exp \[fp16\], forward, near .*: overflow")


if __name__ == "__main__":
    if not os.path.exists(PYTHON):
        print("no Python peer: scripts/setup.sh peers")
        sys.exit(SKIPPED)
    unittest.main()
