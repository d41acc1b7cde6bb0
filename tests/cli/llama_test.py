"""A Llama as a user meets it: the commands that the other tests try with a GPT-2. MEZZO names the binary."""

import json
import shutil
import struct
import unittest

from commands_test import Folder, tiny
from fine_tuning_test import REST, STILL

OWN = {"model": "llama-nano", "kv-heads": 1, "mlp-width": 32, "tied": "false", "norm-eps": "1e-06",
       "rope-base": "500000.0", "rope-scaling": "4,1,4,8"}
TINY = tiny(layers=2, **OWN)


def plant(file, name, value):
    """Sets the first number of an fp32 tensor in a safetensors file."""
    data = bytearray(file.read_bytes())
    size = struct.unpack_from("<Q", data)[0]
    tensor = json.loads(data[8:8 + size])[name]
    assert tensor["dtype"] == "F32"
    struct.pack_into("<f", data, 8 + size + tensor["data_offsets"][0], value)
    file.write_bytes(data)


class LlamaFolder(Folder):
    def train(self, out, *arguments, model=TINY, expect=0):
        return super().train(out, *arguments, model=model, expect=expect)

    def tune(self, out, init, *arguments, expect=0):
        return self.train(out, "--init", init, *arguments, model=REST, expect=expect)

    def text_of(self, run):
        """What the model finds likeliest, token by token; so many that a matrix in another's place shows."""
        return self.mezzo("generate", "--run", run, "--prompt", "def ", "--tokens", 60, "--temperature", 0)


class TrainedLlama(LlamaFolder):
    def setUp(self):
        super().setUp()
        self.source = self.folder / "source"
        self.train("source", "--steps", 30, "--lr", "1e-2", "--precision", "fp32")
        self.hf = self.folder / "hf"
        self.mezzo("export", "--run", self.source, "--out", self.hf)

    def test_an_exported_folder_says_what_it_is_and_writes_the_same_text(self):
        self.assertEqual(sorted(file.name for file in self.hf.iterdir()),
                         ["config.json", "model.safetensors", "tokenizer.json"])
        config = json.loads((self.hf / "config.json").read_text())
        keys = ["model_type", "num_key_value_heads", "intermediate_size", "tie_word_embeddings"]
        self.assertEqual([config[key] for key in keys], ["llama", 1, 32, False])
        self.assertEqual(self.text_of(self.hf), self.text_of(self.source))

    def test_a_run_starts_from_the_exported_folder_and_goes_on_without_it(self):
        self.tune("run", self.hf, *STILL)
        self.assertEqual(self.summary("run")["val_loss"], self.summary("source")["val_loss"])
        self.assertEqual(self.text_of(self.folder / "run"), self.text_of(self.source))
        stored = (self.folder / "run" / "config.toml").read_text()
        for name, value in OWN.items():
            self.assertRegex(stored, rf'(?m)^{name} = "?{value}"? ')
        shutil.rmtree(self.hf)
        self.mezzo("train", "--resume", self.folder / "run", "--steps", 3)
        self.assertEqual([row["step"] for row in self.rows("run") if "loss" in row], [1, 2, 3])

    def test_what_does_not_fit_the_model_is_refused_at_once(self):
        for arguments, text in [
            (["--kv-heads", 2], f"kv-heads must be 1, as in {self.hf} (--init), but is 2. Hint: leave it out"),
            (["--rope-scaling", "none"], f"rope-scaling must be 4,1,4,8, as in {self.hf} (--init), but is none"),
            (["--model", "nano"],
             f"a Llama of 2 layers, 2 heads and width 16 in {self.hf}, but is nano, a GPT-2 of 4, 4 and 256"),
        ]:
            self.assertIn(text, self.tune("run", self.hf, *arguments, expect=2))
        plant(self.hf / "model.safetensors", "model.layers.1.mlp.up_proj.weight", float("nan"))
        self.assertIn(f"layers.1.mlp.gate_up_proj.weight of {self.hf} must be finite in fp32, but 1 of its numbers are",
                      self.tune("run", self.hf, "--precision", "fp32", expect=1))
        self.assertFalse((self.folder / "run" / "checkpoints").exists())

    def test_the_doctor_names_the_layer_that_overflows(self):
        # fp16 holds this, and not its products.
        plant(self.hf / "model.safetensors", "model.layers.1.mlp.up_proj.weight", 6e4)
        doctor = ["doctor", "--data", self.text, "--init", self.hf, *REST, "--steps", 1]
        said = self.mezzo(*doctor, "--precision", "amp-fp16", expect=1)
        self.assertRegex(said, r"\[fp16\], forward of layers\.1\.mlp: overflow")
        self.assertIn('cast-rules = "layers.1.mlp:mezzo::residual_rms_norm_linear=fp32, '
                      'layers.1.mlp:mezzo::swiglu_linear=fp32"', said)
        self.assertNotIn("forward of layers.0", said)
        self.assertIn("nothing found", self.mezzo(*doctor, "--precision", "amp-bf16"))


class Llama(LlamaFolder):
    def test_a_step_whose_gradients_overflow_is_kept_and_can_be_run_again(self):
        self.train("run", "--precision", "amp-fp16", "--loss-scale", "1e12", "--steps", 1)
        step = self.folder / "run" / "failures" / "step-1"
        report = json.loads((step / "diagnosis.json").read_text())
        self.assertTrue(report["reproduced"])
        self.assertTrue(report["remedies"][0]["proved"])
        self.assertEqual(json.loads(self.mezzo("doctor", step, "--json", expect=1)), report)
        self.assertIn("nothing found", self.mezzo("doctor", step, "--precision", "amp-bf16"))

    def test_a_watched_run_measures_its_layers(self):
        self.train("run", "--precision", "amp-bf16", "--steps", 2, "--watch", 2)
        rows = next(row["health"]["rows"] for row in self.rows("run") if "health" in row)
        places = {(row["where"], row["what"]) for row in rows}
        self.assertIn(("layers.1.mlp", "activations"), places)
        self.assertIn(("layers.0.self_attn.qkv_proj.weight", "weight gradients"), places)

    def test_modes_are_compared(self):
        self.mezzo("compare", "--data", self.text, "--out", self.folder / "cmp", *TINY, "--modes", "fp32,amp-bf16",
                   "--seeds", 1, "--steps", 2)
        result = json.loads((self.folder / "cmp" / "compare.json").read_text())
        self.assertEqual([(run["mode"], run["status"], len(run["steps"]["loss"])) for run in result["runs"]],
                         [("fp32", "done", 2), ("amp-bf16", "done", 2)])

    def test_what_fits_is_found_for_a_llama(self):
        self.mezzo("compare", "--data", self.text, "--out", self.folder / "cmp", "--model", "llama-nano", "--modes",
                   "pure-bf16", "--seeds", 1, "--steps", 1, "--batch", 1, "--eval-batches", 1, "--memory", "40MiB")
        row, = json.loads((self.folder / "cmp" / "compare.json").read_text())["capacity"]["rows"]
        self.assertEqual(row["largest_model"], "llama-nano")
        self.assertGreater(row["largest_batch"], 0)

    def test_bench_step_takes_its_presets(self):
        result = json.loads(self.mezzo("bench", "step", "--model", "llama-nano", "--steps", 1, "--json"))
        self.assertEqual((result["model"], result["batch"], result["length"]), ("llama-nano", 8, 256))
        self.assertGreater(result["tokens_per_s"], 0)

    def test_a_shape_that_cannot_be_is_refused_with_exit_code_2(self):
        for arguments, text in [
            (["--model", "llama-nano", "--kv-heads", 3],
             "heads must be a multiple of kv_heads, but is 4 with 3 kv_heads"),
            (["--model", "llama-nano", "--heads", 256], "width / heads must be even"),
            (["--model", "llama-nano", "--bias", "true"], "bias must be false in a Llama, but is true"),
            (["--model", "llama-nano", "--rope-scaling", "2"],
             "rope-scaling must be none, or Llama 3's FACTOR,LOW,HIGH,ORIGINAL_CONTEXT, as 32,1,4,8192, but is"),
            (["--kv-heads", 2], "kv_heads must be left out of a GPT-2, but is 2"),
            (["--mlp-width", 64], "mlp_width must be left out of a GPT-2, but is 64"),
            (["--tied", "false"], "tied must be left out of a GPT-2, but is false"),
            (["--rope-scaling", "4,1,4,8"], "rope must be left out of a GPT-2"),
            (["--model", "lama-nano"], "did you mean 'llama-nano'?"),
        ]:
            self.assertIn(text, self.train("run", *arguments, model=[], expect=2))
            self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    unittest.main()
