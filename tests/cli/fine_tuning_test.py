"""Fine-tuning as a user meets it: train, export, train --init. MEZZO names the binary."""

import json
import shutil
import unittest

from commands_test import TINY, Folder

SHAPE = {"--layers", "--heads", "--width", "--context", "--vocab-size"}
REST = [word for option in zip(TINY[::2], TINY[1::2]) if option[0] not in SHAPE for word in option]
STILL = ["--steps", 1, "--lr", "1e-30", "--precision", "fp32"]  # a step at this rate moves no weight


class FineTuning(Folder):
    def setUp(self):
        super().setUp()
        self.train("source", "--steps", 30, "--lr", "1e-2", "--precision", "fp32")
        self.source = self.folder / "source"

    def tune(self, out, init, *arguments, expect=0):
        return self.train(out, "--init", init, *arguments, model=REST, expect=expect)

    def exported(self):
        self.mezzo("export", "--run", self.source, "--out", self.folder / "hf")
        return self.folder / "hf"

    def test_a_run_starts_from_the_weights_of_another(self):
        checkpoint = self.source / "checkpoints" / "step-000030"
        for out, init in [("run", self.source), ("checkpoint", checkpoint), ("hf", self.exported())]:
            self.tune(f"from-{out}", init, *STILL)
            self.assertEqual(self.summary(f"from-{out}")["val_loss"], self.summary("source")["val_loss"], out)
            self.assertEqual((self.folder / f"from-{out}" / "tokenizer.json").read_bytes(),
                             (self.source / "tokenizer.json").read_bytes())

    def test_every_mode_goes_on_from_them(self):
        for precision in ["amp-fp16", "amp-bf16", "lean", "pure-bf16"]:
            self.tune(precision, self.source, "--steps", 5, "--lr", "1e-3", "--precision", precision)
            self.assertLess(self.summary(precision)["val_loss"], self.summary("source")["val_loss"] + 0.1)

    def test_another_text_is_packed_with_the_models_tokenizer(self):
        self.text.write_text("".join(f"class C{i}:\n    y = {i}\n\n" for i in range(3000)))
        self.tune("run", self.exported(), *STILL)
        self.assertEqual((self.folder / "run" / "tokenizer.json").read_bytes(),
                         (self.source / "tokenizer.json").read_bytes())
        self.mezzo("data", "pack", self.text, "--out", self.folder / "packed", "--vocab-size", 290)
        out = self.mezzo("train", "--init", self.source, "--data", self.folder / "packed", "--out", self.folder / "no",
                         expect=2)
        self.assertIn("was packed with another", out)

    def test_it_resumes_without_the_folder_that_it_started_from(self):
        hf = self.exported()
        self.tune("run", hf, "--steps", 4, "--context", 8)
        shutil.rmtree(hf)
        self.mezzo("train", "--resume", self.folder / "run", "--steps", 6)
        self.assertEqual([row["step"] for row in self.rows("run") if "loss" in row], list(range(1, 7)))
        self.mezzo("generate", "--run", self.folder / "run", "--prompt", "def ", "--tokens", 5)

    def test_the_doctor_goes_on_from_a_run_that_was_fine_tuned_on_text(self):
        self.tune("run", self.exported(), "--steps", 4)
        out = self.mezzo("doctor", "--resume", self.folder / "run", "--steps", 6)
        self.assertIn("nothing found", out)

    def test_an_exported_folder_is_complete_and_writes_text(self):
        hf = self.exported()
        self.assertEqual(sorted(file.name for file in hf.iterdir()),
                         ["config.json", "model.safetensors", "tokenizer.json"])
        config = json.loads((hf / "config.json").read_text())
        self.assertEqual((config["model_type"], config["n_embd"], config["vocab_size"]), ("gpt2", 16, 300))
        self.assertEqual(config["eos_token_id"], 0)
        words = ["--prompt", "def ", "--tokens", 5, "--temperature", 0]
        self.assertEqual(self.mezzo("generate", "--run", hf, *words), self.mezzo("generate", "--run", self.source, *words))

    def test_export_overwrites_nothing(self):
        self.assertIn("--out", self.mezzo("export", "--run", self.source, "--out", self.source, expect=2))
        self.assertIn("is not there", self.mezzo("export", "--run", self.folder / "gone", "--out", self.folder / "hf", expect=2))
        self.assertFalse((self.folder / "hf").exists())

    def test_what_does_not_fit_the_model_is_refused_at_once(self):
        hf = self.exported()
        for arguments, text in [
            (["--width", 32], f"width must be 16, as in {hf} (--init), but is 32. Hint: leave it out"),
            (["--model", "gpt2"], "model must be left out where init gives its shape"),
            (["--context", 32], f"context must be at most 16, as in {hf} (--init), but is 32"),
        ]:
            self.assertIn(text, self.tune("run", hf, *arguments, expect=2))
        self.assertIn("is not there", self.tune("run", self.folder / "gone", expect=2))
        (hf / "tokenizer.json").unlink()
        self.assertIn("no tokenizer.json is there", self.tune("run", hf, expect=2))
        (hf / "model.safetensors").unlink()
        self.assertIn("must hold model.safetensors", self.tune("run", hf, expect=2))
        self.assertFalse((self.folder / "run").exists())

    def test_a_comparison_starts_all_modes_from_the_same_weights(self):
        self.mezzo("compare", "--data", self.text, "--out", self.folder / "cmp", "--init", self.source, *REST[:-2],
                   "--modes", "fp32,amp-bf16", "--seeds", 1, "--steps", 2, "--lr", "1e-6")
        for mode in ["fp32", "amp-bf16"]:
            loss = self.summary(f"cmp/runs/{mode}-seed1337")["val_loss"]
            self.assertAlmostEqual(loss, self.summary("source")["val_loss"], delta=0.05)


if __name__ == "__main__":
    unittest.main()
