"""The program as a user meets it: whole commands, their output, files and exit codes. MEZZO names the binary."""

import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import tempfile
import time
import unittest

MEZZO = os.environ["MEZZO"]
TINY = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--vocab-size", "300", "--batch", "4",
        "--eval-batches", "2", "--sample-tokens", "8"]
TEXT = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(3000))


def tiny(**changes):
    """TINY with other values for some of its options."""
    options = {**dict(zip(TINY[::2], TINY[1::2])), **{f"--{name}": str(value) for name, value in changes.items()}}
    return [word for option in options.items() for word in option]


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.text = self.folder / "text.txt"
        self.text.write_text(TEXT)
        self.environment = {**os.environ, "MEZZO_CACHE": str(self.folder / "cache"), "NO_COLOR": "1"}

    def start(self, *arguments, cwd=None):
        return subprocess.Popen([MEZZO, *map(str, arguments)], env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)

    def mezzo(self, *arguments, expect=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, expect, out + err)
        return out + err

    def train(self, out, *arguments, model=TINY, expect=0):
        return self.mezzo("train", "--data", self.text, "--out", self.folder / out, *model, *arguments, expect=expect)

    def rows(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def summary(self, run):
        return json.loads((self.folder / run / "summary.json").read_text())


class Commands(Folder):
    def test_every_mode_trains_and_leaves_its_files(self):
        for precision in ["fp32", "amp-fp16", "amp-bf16", "lean", "pure-bf16"]:
            out = self.train(precision, "--precision", precision, "--steps", 12, "--lr", "1e-2", "--eval-every", 6)
            self.assertIn("files in", out)
            summary = self.summary(precision)
            self.assertEqual((summary["steps"], summary["precision"]), (12, precision))
            self.assertLess(summary["val_loss"], 6.0)
            self.assertGreater(summary["peak_tensor_bytes"], 0)
            rows = self.rows(precision)
            self.assertEqual([r["step"] for r in rows if "loss" in r], list(range(1, 13)))
            self.assertEqual([r["step"] for r in rows if "val_loss" in r], [6, 12])

    def test_a_killed_run_resumes_bit_for_bit(self):
        for precision in ["fp32", "amp-fp16"]:
            common = ["--precision", precision, "--checkpoint-every", 50, "--eval-every", 0, "--dropout", "0.1"]
            self.train(f"{precision}-straight", "--steps", 100, *common)
            process = self.start("train", "--data", self.text, "--out", self.folder / f"{precision}-killed", *TINY,
                                 "--steps", 100, *common)
            checkpoint = self.folder / f"{precision}-killed" / "checkpoints" / "step-000050"
            while process.poll() is None and not checkpoint.exists():
                time.sleep(0.002)
            process.kill()
            process.communicate()
            self.assertTrue(checkpoint.exists())
            self.mezzo("train", "--resume", checkpoint)
            for name in ["model.safetensors", "optimizer.safetensors", "rng.safetensors"]:
                files = [self.folder / f"{precision}-{run}" / "checkpoints" / "step-000100" / name
                         for run in ("straight", "killed")]
                self.assertEqual(files[0].read_bytes(), files[1].read_bytes(), name)
            losses = [[r["loss"] for r in self.rows(f"{precision}-{run}") if "loss" in r] for run in ("straight", "killed")]
            self.assertEqual(losses[0], losses[1])

    def test_closed_streams_put_no_text_into_the_runs_files(self):
        command = [MEZZO, "train", "--data", self.text, "--out", self.folder / "run", *TINY, "--steps", 3]
        subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *map(str, command)], env=self.environment, check=True,
                       timeout=300)
        self.assertEqual([row["step"] for row in self.rows("run") if "loss" in row], [1, 2, 3])

    def test_the_scale_moves_when_a_step_overflows(self):
        self.train("scaled", "--precision", "amp-fp16", "--steps", 40, "--lr", "1e-2", "--loss-scale", "dynamic")
        rows = [r for r in self.rows("scaled") if "loss" in r]
        self.assertEqual(rows[0]["scale"], 65536)
        summary = self.summary("scaled")
        self.assertEqual(summary["skipped_steps"], sum(r["skipped"] for r in rows))
        self.assertEqual(summary["explained_skips"], sum(r["explained"] for r in rows))
        self.assertEqual(summary["final_scale"], 65536 / 2 ** summary["skipped_steps"])

    def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(self):
        process = self.start("train", "--data", self.text, "--out", self.folder / "run", *TINY, "--steps", 1000000)
        metrics = self.folder / "run" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, out + err)
        self.assertIn("go on with: mezzo train --resume", out)
        self.assertIn("stopping; Ctrl-C again ends it at once", err)
        step = self.summary("run")["steps"]
        self.assertTrue((self.folder / "run" / "checkpoints" / f"step-{step:06}").exists())

    # That a handler's frame harms a product shows once in some tens of times: this looks at the cause.
    def test_no_signal_is_handled_on_a_computing_threads_stack(self):
        process = self.started_run()
        threads = [dict(line.split(":", 1) for line in status.read_text().splitlines())
                   for status in pathlib.Path(f"/proc/{process.pid}/task").glob("*/status")]
        process.kill()
        process.communicate()
        heard = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        for number in [each for each in heard if not int(threads[0]["SigIgn"], 16) >> (each - 1) & 1]:
            open_to_it = [thread for thread in threads if not int(thread["SigBlk"], 16) >> (number - 1) & 1]
            self.assertEqual(len(open_to_it), 1, "the thread that waits for signals, and no other")
            self.assertFalse(int(threads[0]["SigCgt"], 16) >> (number - 1) & 1, "it has no handler")

    def test_a_second_ctrl_c_ends_it_also_where_the_first_was_to_be_ignored(self):
        process = subprocess.Popen([MEZZO, "train", "--data", self.text, "--out", self.folder / "run", *TINY, "--paced"],
                                   env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        while process.stdout.readline() != "at 0\n":  # it waits for its pacer, and cannot end by itself
            self.assertIsNone(process.poll())
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        self.assertEqual(process.wait(timeout=60), -signal.SIGINT)
        process.communicate()

    def test_a_run_outlives_the_reader_of_its_output(self):
        process = self.start("train", "--data", self.text, "--out", self.folder / "run", *TINY, "--steps", 300)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertIn("the reader of the output has closed it", process.stderr.read())
        self.assertEqual(self.summary("run")["status"], "done")
        self.assertTrue((self.folder / "run" / "checkpoints" / "step-000300").exists())

    def test_a_hang_up_leaves_a_checkpoint(self):
        process = self.started_run()
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, out + err)
        self.assertEqual(self.summary("run")["status"], "interrupted")

    def test_a_paced_run_that_is_told_twice_to_stop_leaves_a_checkpoint(self):
        process = subprocess.Popen([MEZZO, "train", "--data", self.text, "--out", self.folder / "run", *TINY, "--paced"],
                                   env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while process.stdout.readline() != "at 0\n":
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)  # as a scheduler does to all of a job's processes
        process.communicate(timeout=60)  # hangs up
        self.assertEqual(process.returncode, 130)
        self.assertTrue((self.folder / "run" / "checkpoints" / "step-000000").exists())

    def started_run(self):
        """A run under way, with a checkpoint."""
        process = self.start("train", "--data", self.text, "--out", self.folder / "run", *TINY, "--steps", 1000000,
                             "--warmup", 0, "--checkpoint-every", 20)
        while process.poll() is None and not list((self.folder / "run").glob("checkpoints/step-*")):
            time.sleep(0.01)
        return process

    def test_a_run_has_its_folder_to_itself_while_it_lives(self):
        process = self.started_run()
        self.assertIn(f"is in use by process {process.pid}",
                      self.mezzo("train", "--resume", self.folder / "run", expect=1))
        process.kill()
        process.communicate()
        step = int(sorted((self.folder / "run" / "checkpoints").glob("step-*"))[-1].name[5:])
        self.mezzo("train", "--resume", self.folder / "run", "--steps", step + 1)

    def test_runs_begun_at_once_without_a_name_have_a_folder_each(self):
        train = ["train", "--data", self.text, *TINY, "--steps", 2]
        for process in [self.start(*train, cwd=self.folder) for _ in range(3)]:
            out, err = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, out + err)
        self.assertEqual(len(list((self.folder / "runs").glob("*/summary.json"))), 3)

    def test_a_run_that_goes_back_and_is_stopped_at_once_goes_on_from_there(self):
        self.train("run", "--steps", 20, "--checkpoint-every", 10)
        older = self.folder / "run" / "checkpoints" / "step-000010"
        out = self.mezzo("train", "--resume", older, "--paced", expect=130)  # nobody paces it
        self.assertIn(f"interrupted after step 10; go on with: mezzo train --resume {older}\n", out)
        self.assertTrue((older.parent / "step-000020").exists())

    def test_a_run_that_goes_back_leaves_the_later_checkpoints(self):
        self.train("run", "--steps", 20, "--checkpoint-every", 10)
        checkpoints = self.folder / "run" / "checkpoints"
        out = self.mezzo("train", "--resume", checkpoints / "step-000010", "--steps", 15)
        self.assertIn("abandoned-step-", out)
        self.mezzo("train", "--resume", self.folder / "run", "--steps", 17)
        self.assertEqual([row["step"] for row in self.rows("run") if "loss" in row], list(range(1, 18)))
        self.mezzo("generate", "--run", checkpoints / "abandoned-step-000020", "--prompt", "def ", "--tokens", 5)
        self.mezzo("train", "--resume", checkpoints / "abandoned-step-000020", "--steps", 22)

    def test_a_diverging_run_says_so(self):
        out = self.train("bad", "--precision", "fp32", "--lr", "1e30", "--min-lr", "1e30", "--clip", "0", "--warmup", 0,
                         "--steps", 200, "--eval-every", 0, expect=1)
        self.assertIn("what to try: a lower --lr, a longer --warmup, --clip 1\n", out)
        self.assertIn("before its first checkpoint", out)
        self.assertLess(self.summary("bad")["diverged_at"], 100)

    def test_a_damaged_checkpoint_is_named_and_the_older_one_serves(self):
        self.train("run", "--steps", 20, "--checkpoint-every", 10)
        newest = self.folder / "run" / "checkpoints" / "step-000020" / "model.safetensors"
        newest.write_bytes(newest.read_bytes()[:-100])
        out = self.mezzo("train", "--resume", self.folder / "run", "--steps", 25, expect=1)
        older = self.folder / "run" / "checkpoints" / "step-000010"
        self.assertIn(str(newest), out)
        self.assertIn(f"Hint: the checkpoint before it is {older}", out)
        self.mezzo("train", "--resume", self.folder / "run" / "checkpoints" / "step-000010", "--steps", 15)
        self.mezzo("train", "--resume", self.folder / "run", "--steps", 16)

    def test_the_run_from_the_older_checkpoint_writes_the_damaged_one_anew(self):
        self.train("run", "--steps", 20, "--checkpoint-every", 10)
        newest = self.folder / "run" / "checkpoints" / "step-000020" / "model.safetensors"
        whole = newest.read_bytes()
        newest.write_bytes(whole[:-100])
        self.mezzo("train", "--resume", self.folder / "run" / "checkpoints" / "step-000010")
        self.assertEqual(newest.read_bytes(), whole)

    def test_a_run_that_is_over_keeps_its_files(self):
        self.train("run", "--steps", 5)

        def files():
            return {file: file.read_bytes() for file in (self.folder / "run").rglob("*.*") if file.name != ".lock"}

        before = files()
        for steps in [[], ["--steps", 3]]:
            out = self.mezzo("train", "--resume", self.folder / "run", *steps, expect=2)
            self.assertIn("steps must be above 5", out)
        self.assertEqual(files(), before)
        (self.folder / "run" / "summary.json").unlink()  # as if killed before it was written
        self.mezzo("train", "--resume", self.folder / "run")
        self.assertEqual(self.summary("run")["steps"], 5)

    def test_a_run_does_not_go_on_with_another_text(self):
        self.train("run", "--steps", 5)
        self.text.write_text(TEXT.replace("def", "fun"))
        self.assertIn("was trained on other data", self.mezzo("train", "--resume", self.folder / "run", "--steps", 9,
                                                              expect=1))

    def test_a_full_disk_is_an_error_that_leaves_the_older_checkpoint(self):
        self.train("run", "--steps", 10)
        size = (self.folder / "run" / "checkpoints" / "step-000010" / "optimizer.safetensors").stat().st_size

        def fill_disk():  # a write beyond the limit fails, as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

        process = subprocess.run([MEZZO, "train", "--resume", self.folder / "run", "--steps", "15"], text=True,
                                 env=self.environment, preexec_fn=fill_disk, capture_output=True, timeout=300)
        self.assertEqual(process.returncode, 1, process.stdout + process.stderr)
        self.assertIn("cannot write", process.stderr)
        self.assertIn("Hint: make room, then go on from the last good checkpoint, step-000010, with: mezzo train "
                      f"--resume {self.folder / 'run'}", process.stderr)
        self.assertEqual([f.name for f in (self.folder / "run" / "checkpoints").iterdir()], ["step-000010"])
        self.mezzo("train", "--resume", self.folder / "run", "--steps", 15)

    def test_a_folder_that_cannot_be_made_is_refused(self):
        out = self.train("text.txt/run", "--steps", 5, expect=1)
        self.assertIn("cannot make the run's folder", out)

    def test_on_overflow_retry_loses_no_batch(self):
        self.train("retry", "--precision", "amp-fp16", "--steps", 5, "--on-overflow", "retry", "--lr", "1e-2")
        self.assertEqual(self.summary("retry")["skipped_steps"], 0)

    def test_pure_fp16_ends_or_says_where_it_diverged(self):
        process = self.start("train", "--data", self.text, "--out", self.folder / "run", *TINY, "--precision",
                             "pure-fp16", "--steps", 60)
        out, err = process.communicate(timeout=300)
        summary = self.summary("run")
        self.assertEqual(process.returncode, 1 if "diverged_at" in summary else 0, out + err)
        self.assertEqual("diverged at step" in out, "diverged_at" in summary)

    def test_a_step_that_overflows_is_diagnosed(self):
        out = self.train("run", "--precision", "amp-fp16", "--loss-scale", "1e12", "--steps", 3)
        self.assertIn("backward of head", out)
        report = json.loads((self.folder / "run/failures/step-1/diagnosis.json").read_text())
        self.assertTrue(report["reproduced"])
        self.assertEqual(report["findings"][0]["direction"], "backward")
        self.assertTrue(report["remedies"][0]["proved"])
        self.assertIn("loss scale", report["remedies"][0]["change"])
        quiet = self.train("quiet", "--precision", "amp-fp16", "--loss-scale", "1e12", "--steps", 3, "--diagnose", 0)
        self.assertNotIn("backward of head", quiet)
        self.assertFalse((self.folder / "quiet/failures").exists())

    def test_a_run_killed_while_it_diagnoses_leaves_the_step_to_be_run_again(self):
        train = ["train", "--data", self.text, "--precision", "amp-fp16", "--loss-scale", "1e12", "--steps", 1, "--layers", 3,
                 "--heads", 2, "--width", 64, "--context", 64, "--vocab-size", 300, "--eval-batches", 2, "--sample-tokens", 0]
        process = self.start(*train, "--out", self.folder / "killed")
        step = self.folder / "killed" / "failures" / "step-1"
        while process.poll() is None and not step.exists():
            time.sleep(0.002)
        process.kill()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.assertFalse((step / "diagnosis.json").exists(), "it was killed too late to show anything")
        self.mezzo(*train, "--out", self.folder / "whole")
        self.text.unlink()
        again = json.loads(self.mezzo("doctor", step, "--json", expect=1))
        whole = json.loads((self.folder / "whole" / "failures" / "step-1" / "diagnosis.json").read_text())
        self.assertEqual(again, whole)
        self.assertIn("nothing found", self.mezzo("doctor", step, "--precision", "amp-bf16"))
        self.assertIn("nothing found", self.mezzo("doctor", step, "--loss-scale", 1024))
        self.assertIn("--steps 3 cannot be given", self.mezzo("doctor", step, "--steps", 3, expect=2))
        self.assertIn("holds no saved step", self.mezzo("doctor", self.folder, expect=2))
        weights = step / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        self.assertIn(str(weights), self.mezzo("doctor", step, expect=1))

    def test_the_doctor_says_what_is_wrong_or_that_nothing_is(self):
        doctor = ["doctor", "--data", self.text, *TINY]
        out = self.mezzo(*doctor, "--steps", 3, "--out", self.folder / "idle")
        self.assertRegex(out, r"nothing found.*\nlooked into step 3, after steps 1 to 2 went well\n")
        self.assertNotIn(str(self.folder / "idle"), out)
        out = self.mezzo(*doctor, "--precision", "amp-fp16", "--loss-scale", "1e12", "--steps", 3, expect=1)
        self.assertRegex(out, r"backward of head.*\n(.*\n)*proved +a loss scale")

    def test_the_doctor_goes_on_from_a_run_or_says_that_it_has_gone_further(self):
        self.train("run", "--steps", 5)
        doctor = ["doctor", "--resume", self.folder / "run"]
        self.assertIn("looked into step 6\n", self.mezzo(*doctor))
        self.assertIn("steps must be at least 5, which are done in", self.mezzo(*doctor, "--steps", 3, expect=2))

    def test_the_doctor_knows_at_once_that_its_file_cannot_be_written(self):
        for option, file, text in [("--html", self.folder / "no" / "page.html", "No such file"),
                                   ("--fit", self.folder / "no" / "fit.toml", "No such file"),
                                   ("--html", self.folder, "is a folder")]:
            out = self.mezzo("doctor", "--data", self.text, *TINY, option, file, expect=2)
            self.assertIn(text, out)
            self.assertNotIn("data: ", out)

    def test_ctrl_c_is_no_clean_bill_of_health(self):
        process = self.start("doctor", "--data", self.text, *TINY, "--steps", 1000000)
        while "| loss" not in process.stderr.readline():
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, out + err)
        self.assertNotIn("nothing found", out)

    def test_a_diagnosis_changes_nothing_of_the_run(self):
        arguments = ["--precision", "amp-fp16", "--loss-scale", "1e12", "--steps", 4, "--dropout", "0.1"]
        self.train("with", *arguments)
        self.train("without", *arguments, "--diagnose", 0)
        losses = [[row["loss"] for row in self.rows(run) if "loss" in row] for run in ["with", "without"]]
        self.assertEqual(*losses)

    def test_a_watched_run_measures_and_warns(self):
        out = self.train("run", "--precision", "pure-bf16", "--lr", "1e-6", "--steps", 10, "--watch", 5)
        self.assertRegex(out, r"step 5: rounding undoes \d+ % of the updates")
        health = [row for row in self.rows("run") if "health" in row]
        self.assertEqual([row["step"] for row in health], [5, 10])
        places = {(row["where"], row["what"]) for row in health[0]["health"]["rows"]}
        self.assertIn(("h.0.mlp", "activations"), places)
        self.assertIn(("wte.weight", "weight gradients"), places)

    def test_the_doctor_fits_a_policy_that_train_takes(self):
        fitted = self.folder / "fitted.toml"
        out = self.mezzo("doctor", "--data", self.text, *TINY, "--steps", 20, "--precision", "amp-fp16", "--fit", fitted)
        self.assertIn("verified", out)
        self.assertRegex(out, r"step +1/20 ")
        self.assertIn("precision = \"amp-fp16\"", fitted.read_text())
        self.train("run", "--config", fitted, "--steps", 2)
        self.assertIn("--fit needs a mode with autocast", self.mezzo(
            "doctor", "--data", self.text, *TINY, "--precision", "fp32", "--fit", fitted, expect=2))

    def test_fp8_trains_emulated_resumes_and_writes(self):
        out = self.train("run", "--steps", 12, "--precision", "fp8", "--fp8-scaling", "delayed", "--lr", "1e-2",
                         model=tiny(layers=3))
        self.assertEqual(out.count("FP8 products are emulated on a CPU"), 1)
        self.assertLess(self.summary("run")["val_loss"], 6.0)
        self.assertIn("files in", self.mezzo("train", "--resume", self.folder / "run", "--steps", 14))
        self.mezzo("generate", "--run", self.folder / "run", "--prompt", "def ", "--tokens", 5)

    def test_fp8_is_refused_with_the_reason(self):
        for model, precision, scaling, text in [
            (TINY, "fp8", "current", "needs 3 layers or more, but there are 1"),
            (tiny(layers=3, width=24), "fp8", "current", "a width in multiples of 16, but it is 24"),
            (tiny(layers=3, batch=3, context=10), "fp8", "current", "in multiples of 16, but it has 30"),
            (tiny(layers=3), "fp8", "never", "fp8-scaling must be one of current, delayed"),
            (TINY, "lean", "delayed", "multiplies nothing in FP8"),
        ]:
            self.assertIn(text, self.train("refused", "--precision", precision, "--fp8-scaling", scaling, model=model,
                                           expect=2))
            self.assertFalse((self.folder / "refused").exists())
        self.assertIn("multiplies nothing in FP8", self.mezzo("bench", "step", "--fp8-scaling", "delayed", expect=2))

    def test_a_command_to_be_copied_is_quoted_and_works(self):
        out = self.train("it's a run", "--steps", 2)
        command = re.search("generate text: (mezzo generate .*)", out)[1]
        done = subprocess.run(["sh", "-c", command.replace("mezzo", MEZZO, 1)], env=self.environment, timeout=300,
                              stdout=subprocess.PIPE, text=True)
        self.assertTrue(done.stdout.startswith("The "))

    def test_no_text_is_promised_of_a_run_without_a_tokenizer(self):
        (self.folder / "train.bin").write_bytes(bytes(4000))
        out = self.mezzo("train", "--data", self.folder / "train.bin", "--out", self.folder / "run", *TINY, "--steps", 2)
        self.assertNotIn("mezzo generate", out)

    def test_generate_writes_after_the_prompt(self):
        self.train("run", "--steps", 5)
        out = self.mezzo("generate", "--run", self.folder / "run", "--prompt", "def ", "--tokens", 5)
        self.assertTrue(out.startswith("def "))
        self.assertGreater(len(out), len("def \n"))

    def test_generate_writes_as_it_goes_and_keeps_what_it_has_when_stopped(self):
        self.train("run", "--steps", 2)
        process = self.start("generate", "--run", self.folder / "run", "--prompt", "def ", "--tokens", 1000000)
        self.assertEqual(process.stdout.read(6)[:4], "def ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, out + err)

    def test_generate_refuses_what_it_cannot_do_with_exit_code_2(self):
        self.train("run", "--steps", 2)
        generate = ["generate", "--run", self.folder / "run", "--prompt"]
        for arguments, text in [
            (["def ", "--tokens", 99999999999], "--tokens must be from 0 to 1000000, but is 99999999999"),
            (["def ", "--tokens", "-1"], "--tokens must be from 0"),
            (["def ", "--temperature", "inf"], "--temperature must be 0 or above and finite, but is inf"),
            (["def ", "--seed", "-1"], "--seed must be 0 or above, but is -1"),
            ([""], "--prompt '<|endoftext|>' begins a new text"),
        ]:
            self.assertIn(text, self.mezzo(*generate, *arguments, expect=2))
        self.mezzo(*generate, "<|endoftext|>", "--tokens", 2)
        checkpoint = self.folder / "run" / "checkpoints" / "step-000002"
        checkpoint.rename(self.folder / "alone")
        out = self.mezzo("generate", "--run", self.folder / "alone", "--prompt", "def ", expect=2)
        self.assertIn("belongs to no run", out)

    def test_without_home_the_cache_is_in_the_users_own(self):
        self.text.write_text("too little to be kept there")
        done = subprocess.run(["env", "-i", MEZZO, "train", "--data", self.text], capture_output=True, text=True,
                              timeout=300)
        self.assertIn("must hold at least 2 documents", done.stderr)

    def test_data_packs_and_shows(self):
        out = self.mezzo("data", "pack", self.text, "--out", self.folder / "packed", "--vocab-size", 300)
        self.assertIn("held-out tokens", out)
        out = self.mezzo("data", "show", self.folder / "packed" / "data.tokens")
        self.assertIn("vocabulary 300 tokens", out)
        self.assertIn("def f", out)
        out = self.mezzo("train", "--data", self.folder / "packed", "--out", self.folder / "run", *TINY, "--steps", 2)
        self.assertNotIn("data: encode", out)
        self.assertEqual((self.folder / "run/tokenizer.json").read_bytes(), (self.folder / "packed/tokenizer.json").read_bytes())

    def test_a_pack_uses_the_tokenizer_that_is_there_or_says_that_it_cannot(self):
        pack = ["data", "pack", self.text, "--out", self.folder / "packed"]
        self.mezzo(*pack, "--vocab-size", 300)
        self.assertIn("packed/tokenizer.json, 300, but is 500", self.mezzo(*pack, "--vocab-size", 500, expect=2))
        self.mezzo(*pack, "--vocab-size", 300)
        self.mezzo(*pack)

    def test_a_pack_that_fails_leaves_no_folder(self):
        tiny = self.folder / "tiny.txt"
        tiny.write_text("one document")
        self.mezzo("data", "pack", tiny, "--out", self.folder / "packed", expect=2)
        self.assertFalse((self.folder / "packed").exists())

    def test_files_that_are_no_text_are_told_of(self):
        folder = self.folder / "texts"
        folder.mkdir()
        (folder / "good.txt").write_text(TEXT)
        (folder / "latin1.txt").write_bytes(b"caf\xe9")
        (folder / "nothing.txt").write_bytes(b"")
        out = self.mezzo("train", "--data", folder, "--out", self.folder / "run", *TINY, "--steps", 1)
        self.assertIn(f"data: 1 file is skipped, which is no text; the first, {folder / 'latin1.txt'}: byte 3 is not UTF-8", out)

    def test_a_pipe_is_no_data(self):
        os.mkfifo(self.folder / "pipe")
        self.assertIn("is neither", self.mezzo("train", "--data", self.folder / "pipe", expect=2))

    def test_ctrl_c_while_text_is_packed_leaves_nothing(self):
        self.text.write_text(TEXT * 60)
        process = self.start("train", "--data", self.text, "--out", self.folder / "run", *tiny(**{"vocab-size": 4000}))
        self.assertIn("data: scan", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 130)
        self.assertIn("interrupted", process.communicate()[1])
        self.assertFalse((self.folder / "run").exists())
        self.assertEqual(list((self.folder / "cache").iterdir()), [])

    def test_info_names_every_precision(self):
        out = self.mezzo("info")
        for precision in ["fp32", "amp-fp16", "amp-bf16", "lean", "fp8", "pure-fp16", "pure-bf16"]:
            self.assertIn(precision, out)
        rates = dict(re.findall(r"(?m)^(\S+) +(\d+ +[0-9.]+)x ", out))
        self.assertEqual(rates["amp-bf16"], rates["lean"])  # the same products
        self.assertEqual(rates["amp-fp16"], rates["pure-fp16"])

    def test_ops_prints_and_compares_policies(self):
        self.assertRegex(self.mezzo("ops"), r"softmax.int +fp32_set_dtype")
        self.assertRegex(self.mezzo("ops", "--diff", "pytorch-cpu"), r"softmax.int +fp32_set_dtype +-")
        self.assertEqual(self.mezzo("ops", "--diff", "mezzo"), "no differences between mezzo and mezzo on cpu\n")
        out = self.mezzo("ops", "--cast-rules", "mm=fp32, h.*.attn:mm=lower", "--diff", "mezzo")
        self.assertRegex(out, r"(?s)mm +fp32 +lower.*h\.\*\.attn:mm +lower")
        self.assertIn("did you mean 'softmax'", self.mezzo("ops", "--cast-rules", "sofmax=fp32", expect=2))

    def test_cast_rules_change_a_run_and_wrong_ones_are_refused(self):
        self.train("plain", "--steps", 3)
        self.train("ruled", "--steps", 3, "--cast-rules", "linear=fp32, h.*.attn:mm=fp32")
        self.assertNotEqual(self.summary("plain")["train_loss"], self.summary("ruled")["train_loss"])
        self.assertIn("cast-rules", (self.folder / "ruled" / "config.toml").read_text())
        said = self.train("unmet", "--steps", 1, "--cast-rules", "h.9.attn:linear=fp32, h.0.mlp:linear=fp32")
        self.assertIn("no op of this model has met h.9.attn:linear=fp32", said)
        self.assertNotIn("has met h.0.mlp", said)
        self.assertIn("cast-rules", self.train("wrong", "--cast-rules", "linear=fp33", expect=2))

    def test_bench_step_prints_its_keys(self):
        result = json.loads(self.mezzo("bench", "step", "--steps", 1, "--json"))
        for key in ["min_ms", "median_ms", "tokens_per_s", "peak_tensor_bytes", "peak_rss_bytes"]:
            self.assertGreater(result[key], 0, key)

    def test_too_large_a_model_is_told_in_a_few_lines_with_a_way_out(self):
        command = ["train", "--data", self.text, "--out", self.folder / "run", *tiny(width=6144)]
        limit = 6 * 2**30  # of the process: the machine could hold these 450 M parameters
        done = subprocess.run([MEZZO, *map(str, command)], env=self.environment, capture_output=True, text=True,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)), timeout=300)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("--recompute layer", done.stderr)
        self.assertNotIn("frame #", done.stderr)

    def test_output_that_cannot_be_written_is_a_failure(self):
        self.train("run", "--steps", 2)
        for command in [["info"], ["ops"], ["--help"], ["generate", "--run", self.folder / "run", "--prompt", "def "]]:
            with open("/dev/full", "w") as full:
                done = subprocess.run([MEZZO, *map(str, command)], env=self.environment, stdout=full,
                                      stderr=subprocess.PIPE, text=True, timeout=300)
            self.assertEqual(done.returncode, 1, command)
            self.assertIn("mezzo: ", done.stderr)

    def test_each_commands_help_shows_its_own_options_and_defaults(self):
        compare = self.mezzo("compare", "--help")
        for option in ["--steps (200)", "--eval-every (steps / 5)", "--sample-tokens (0)"]:
            self.assertIn(option, compare)
        self.assertNotIn("--diagnose", compare)
        doctor = self.mezzo("doctor", "--help")
        self.assertIn("--steps (200)", doctor)
        for idle in ["--out", "--checkpoint-every", "--diagnose"]:
            self.assertNotIn(idle, doctor)

    def test_help_fits_the_terminal(self):
        for columns, widest in [("70", 70), ("400", 120)]:
            self.environment["COLUMNS"] = columns
            for command in [[], ["train"], ["compare"], ["doctor"], ["generate"], ["bench", "step"]]:
                lines = self.mezzo(*command, "--help").splitlines()
                self.assertLessEqual(max(len(line) for line in lines if " " * 20 in line), widest, command)

    def test_wrong_words_are_refused_at_once_with_exit_code_2(self):
        config = self.folder / "run.toml"
        config.write_text('steps = "many"\n')
        no_text = self.folder / "no-text"
        no_text.mkdir()
        for arguments, text in [
            (["--steps", "-3"], "steps"),
            (["--heads", "3"], "heads"),
            (["--data", "/not/there"], "/not/there"),
            (["--precision", "fp17"], "fp17"),
            (["--config", config], "steps must be an integer"),
            (["--stepz", "3"], "stepz"),
            (["--resume", ""], "resume must not be empty"),
            (["--data", ""], "data must not be empty"),
        ]:
            out = self.mezzo("train", *arguments, expect=2)
            self.assertIn(text, out)
        self.mezzo(expect=2)
        for arguments, text in [
            (["data", "pack", "/not/there", "--out", self.folder / "packed"], "/not/there"),
            (["data", "show", "/not/there"], "/not/there"),
            (["data", "show", self.folder], "must hold data.tokens"),
            (["data", "show", self.text], "is none of these"),
            (["data", "pack", no_text, "--out", self.folder / "packed"], "must hold files"),
            (["train", "--data", no_text, "--out", self.folder / "run"], "must hold files"),
            (["compare", "--peers", "/not/there"], "--peers"),
            (["bench", "step", "--memory", "much"], "[memory]"),
            (["train", "--data", self.text, *tiny(context=100000), "--out", self.folder / "run"], "context 100000"),
            (["train", "--loss-scale", "1e39"], "loss-scale must be"),
            (["trian"], "did you mean 'train'?"),
            (["data", "show-all"], "'show-all' is not a command"),
            (["train", "--precission", "fp32"], "--precission is not an option of train, did you mean '--precision'?"),
            (["train", "--steps="], "--steps needs a value"),
            (["train", "--steps", 3, "--steps", 4], "--steps must be given once, but is given 2 times"),
            (["generate", "--prompt", "def "], "--run must be given"),
            (["bench"], "a command must be given. Hint: mezzo bench --help"),
            (["bench", "step", "--batch", "x"], "--batch must be a number, but is x"),
            (["ops", "--device", "tpu"], "--device must be one of cpu,cuda, but is tpu"),
            (["doctor", "step", "--fit", "fit.toml"], "cannot be given with"),
            (["info", "extra"], "'extra' is a word too many for info"),
            (["info", "-x"], "-x is not an option of info"),
        ]:
            out = self.mezzo(*arguments, expect=2)
            self.assertIn(text, out)
            self.assertRegex(out, r"(?m)^mezzo: \[")
        self.mezzo("bench", "step", "--model", "huge", expect=2)
        for command in [["bench", "step"], ["train", "--data", self.text], ["doctor", "--data", self.text],
                        ["compare", "--data", self.text]]:
            out = self.mezzo(*command, "--threads", 1000000, expect=2)
            self.assertRegex(out, r"threads must be from 0 to \d+ on this machine of \d+ cores, but is 1000000")
            self.assertNotIn("data: ", out)
        self.assertIn("--length must be from 1 to 256, the context of nano, but is 257",
                      self.mezzo("bench", "step", "--length", 257, expect=2))
        self.assertIn("is not empty", self.mezzo("train", "--data", self.text, "--out", self.folder, *TINY, expect=2))


class Compare(Folder):
    """Runs in processes of their own, under one parent."""

    MODES = ["fp32", "amp-bf16", "pure-fp16"]

    def arguments(self, out, *more, modes=MODES, seeds=1, steps=24, model=TINY):
        return ["compare", "--data", self.text, "--out", self.folder / out, *model, "--modes", ",".join(modes), "--seeds",
                seeds, "--steps", steps, "--eval-every", 8, *more]

    def result(self, out):
        return json.loads((self.folder / out / "compare.json").read_text())

    def samples(self, out):
        """What must be the same bit for bit: everything but times and the memory of the process."""
        return [(run["mode"], run["seed"], run["status"], run["steps"]["loss"], run["steps"]["grad_norm"],
                 run["evals"]["val_loss"][-1], run["evals"]["val_accuracy"][-1]) for run in self.result(out)["runs"]]

    def test_says_what_each_mode_costs_and_gains(self):
        said = self.mezzo(*self.arguments("a", seeds=2))
        self.assertRegex(said, r"amp-bf16: [0-9.]+x, -[0-9]+ % memory, accuracy")
        self.assertRegex(said, r"recommended on this machine: ")
        result = self.result("a")
        self.assertEqual((result["status"], result["modes"], result["baseline"]), ("done", self.MODES, "fp32"))
        self.assertEqual([row["mode"] for row in result["table"]], self.MODES)
        self.assertEqual(len(result["runs"]), 6)
        self.assertEqual(len({run["steps"]["loss"][0] for run in result["runs"] if run["mode"] == "fp32"}), 2)
        for run in result["runs"]:
            self.assertEqual(run["steps"]["step"], list(range(1, 25)))
            self.assertGreater(sum(run["gradients"]["counts"]), 0)
        for row in result["table"]:
            kinds = row["memory"]["kinds"]
            self.assertEqual(sum(kinds.values()), row["memory"]["peak_tensor_bytes"])
        self.mezzo(*self.arguments("b", seeds=2))
        self.assertEqual(self.samples("a"), self.samples("b"))

    def test_finds_what_fits_into_a_budget_by_trying(self):
        out = self.folder / "a"
        said = self.mezzo("compare", "--data", self.text, "--out", out, "--modes", "fp32,pure-bf16", "--seeds", 1, "--steps",
                          5, "--batch", 1, "--eval-batches", 1, "--memory", "150MiB")
        self.assertIn("what fits into 0.15 GiB", said)
        capacity = self.result("a")["capacity"]
        fp32, pure = capacity["rows"]
        self.assertGreater(pure["largest_batch"], fp32["largest_batch"])
        for row in capacity["rows"]:
            self.assertLessEqual(row["batch_peak_bytes"], 150 * 2**20)
            batch, presets = row["largest_batch"], ["nano", "mini", "gpt2"]  # and no Llama
            next_model = presets[presets.index(row["largest_model"]) + 1]
            tries = [("nano", batch), ("nano", batch + 1), (row["largest_model"], 1), (next_model, 1)]
            self.assertEqual([self.fits(row["mode"], *one) for one in tries], [True, False, True, False])
        self.assertIn("cannot be given with", self.mezzo(*self.arguments("b", "--memory", "1GiB"), expect=2))
        self.assertIn("16GiB", self.mezzo("compare", "--memory", "much", expect=2))

    def fits(self, mode, model, batch):
        said = self.mezzo("bench", "step", "--model", model, "--precision", mode, "--batch", batch, "--steps", 1, "--memory",
                          "150MiB", "--json")
        return json.loads(said)["fits"]

    def test_a_mode_that_diverges_is_a_result(self):
        said = self.mezzo(*self.arguments("a", "--lr", "1e4", "--clip", 0, steps=60,
                                          modes=["fp32", "pure-fp16"]))
        row = next(row for row in self.result("a")["table"] if row["mode"] == "pure-fp16")
        self.assertEqual(len(row["diverged"]), 1)
        self.assertGreaterEqual(row["stability"]["nonfinite_steps"], 20)
        self.assertIn(f"pure-fp16 diverged at step {row['diverged'][0]['step']}", said)

    def test_interrupted_it_goes_on_where_it_was(self):
        self.mezzo(*self.arguments("whole"))
        process = self.start(*self.arguments("parts"))
        self.assertIn("5 of 24 steps", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, out + err)
        self.assertIn(f"mezzo compare --resume {self.folder / 'parts'}", out)
        self.assertEqual(self.result("parts")["status"], "interrupted")
        process = self.start("compare", "--resume", self.folder / "parts")
        self.assertIn("of 24 steps", process.stdout.readline())
        self.assertNotIn("interrupted", [run["status"] for run in self.result("parts")["runs"]])
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertEqual(self.result("parts")["status"], "done")
        self.assertEqual(self.samples("whole"), self.samples("parts"))

    def test_goes_on_from_another_folder_with_the_peers_it_was_given(self):
        (self.folder / "peers.json").write_text('[{"name": "other", "step_ms": 3.5}]')
        process = self.start(*self.arguments("a", "--peers", "peers.json", modes=["fp32"], steps=5), cwd=self.folder)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, out + err)
        self.mezzo("compare", "--resume", self.folder / "a")
        self.assertEqual(self.result("a")["peers"], [{"name": "other", "step_ms": 3.5}])

    def test_killed_it_leaves_no_process_behind_and_goes_on(self):
        process = self.start(*self.arguments("a", steps=400))
        process.stdout.readline()
        process.kill()
        process.communicate(timeout=60)
        deadline = time.time() + 60
        while self.workers() and time.time() < deadline:
            time.sleep(0.1)
        self.assertEqual(self.workers(), [])
        for run in (self.folder / "a" / "runs").glob("*/summary.json"):
            self.assertEqual(json.loads(run.read_text())["status"], "interrupted")

    def workers(self):
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += [entry] if str(self.folder).encode() in entry.read_bytes() else []
            except OSError:
                pass  # ended meanwhile
        return found

    def test_a_run_that_dies_is_named_and_the_others_go_on(self):
        process = self.start(*self.arguments("a", steps=100))
        process.stdout.readline()
        for worker in self.workers():
            if b"amp-bf16-seed" in worker.read_bytes():
                os.kill(int(worker.parent.name), signal.SIGKILL)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 1, out + err)
        self.assertIn("amp-bf16 failed: ended by signal 9", out)
        self.assertIsNotNone(self.result("a")["table"][0]["accuracy"]["absolute"])

    def test_fp8_is_compared_with_its_own_scaling(self):
        said = self.mezzo(*self.arguments("fp8", "--fp8-scaling", "delayed", modes=["fp32", "fp8"], steps=10,
                                          model=tiny(layers=3)))
        self.assertIn("FP8 products are emulated on a CPU", said)
        self.assertEqual([run["status"] for run in self.result("fp8")["runs"]], ["done", "done"])
        toml = (self.folder / "fp8" / "runs" / "fp8-seed1337" / "config.toml").read_text()
        self.assertIn('fp8-scaling = "delayed"', toml)

    def test_what_cannot_be_compared_is_refused_at_once(self):
        self.assertIn("needs 3 layers", self.mezzo(*self.arguments("a", modes=["fp32", "fp8"]), expect=2))
        self.assertIn("fp7", self.mezzo(*self.arguments("a", modes=["fp32", "fp7"]), expect=2))
        self.assertIn("twice", self.mezzo(*self.arguments("a", modes=["fp32", "fp32"]), expect=2))
        self.assertIn("at least 1", self.mezzo(*self.arguments("a", seeds=0), expect=2))
        self.assertIn("no comparison", self.mezzo("compare", "--resume", self.folder, expect=2))
        self.assertFalse((self.folder / "a").exists())
        self.mezzo(*self.arguments("b", modes=["fp32"], steps=5))
        self.assertIn("another comparison", self.mezzo(*self.arguments("b", seeds=2), expect=2))

    def test_a_folder_with_other_files_stays_as_it_is(self):
        notes = self.folder / "mine" / "runs" / "fp32-seed1337" / "notes.txt"
        notes.parent.mkdir(parents=True)
        notes.write_text("mine")
        self.assertIn("no comparison", self.mezzo(*self.arguments("mine", modes=["fp32"], steps=2), expect=2))
        self.assertEqual([file for file in (self.folder / "mine").rglob("*") if file.is_file()], [notes])


if __name__ == "__main__":
    unittest.main(verbosity=2)
