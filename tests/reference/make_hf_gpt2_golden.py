"""The golden folder for tests/models/hf_gpt2_test.cpp: a GPT-2 as Hugging Face's own library saves it.

    pip install transformers
    python tests/reference/make_hf_gpt2_golden.py

writes tests/models/golden/hf_gpt2/: config.json and model.safetensors by save_pretrained, of a tiny model with random
weights, and logits.safetensors, what the library computes for fixed tokens. It needs torch (CPU is enough) and
transformers, which no other script here does: install it for this one.

The weights are saved in fp16, as many models are, which also halves the file; the logits are of these very numbers,
computed in fp64.
"""

import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

SEED = 20261128
FOLDER = Path(__file__).resolve().parent.parent / "models/golden/hf_gpt2"
SHAPE = dict(n_layer=2, n_embd=32, n_head=2, n_positions=32, vocab_size=96)
BATCH, LENGTH = 2, 24


def fill(model, generator):
    """Weights large enough that every nonlinearity is far from its linear part, and biases that are not zero."""
    for name, p in model.named_parameters():
        value = 0.2 * torch.randn(p.shape, generator=generator)
        is_norm_weight = ".ln_" in name and name.endswith("weight")
        p.data = (1 + value if is_norm_weight else value).half()


if __name__ == "__main__":
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    model = GPT2LMHeadModel(GPT2Config(**SHAPE, bos_token_id=None, eos_token_id=None)).eval()
    fill(model, generator)
    tokens = torch.randint(SHAPE["vocab_size"], (BATCH, LENGTH), generator=generator)

    shutil.rmtree(FOLDER, ignore_errors=True)
    model.half().save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink()
    with torch.no_grad():
        logits = model.double()(tokens).logits
    metadata = {"script": "tests/reference/make_hf_gpt2_golden.py", "seed": str(SEED),
                "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    save_file({"tokens": tokens, "logits": logits}, FOLDER / "logits.safetensors", metadata=metadata)
    for file in sorted(FOLDER.iterdir()):
        print(f"{file.relative_to(FOLDER.parents[3])}: {file.stat().st_size} bytes")
