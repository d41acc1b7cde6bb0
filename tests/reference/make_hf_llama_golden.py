"""The golden folders for tests/models/hf_llama_test.cpp: Llamas as Hugging Face's own library saves them.

    pip install transformers
    python tests/reference/make_hf_llama_golden.py

writes tests/models/golden/hf_llama/ (tied head, two heads of queries for each of keys) and hf_llama3/ (a head of its
own, one head of keys for all, Llama 3.1's rotary scaling, a sequence beyond the original context): config.json and
model.safetensors by save_pretrained, of tiny models with random weights, and reference.safetensors, what the library
computes for fixed tokens and targets: logits, the mean cross entropy (a target for each position, no shift) and the
gradient of every parameter. It needs torch (CPU is enough) and transformers.

The weights are saved in fp16, as many models are, which also halves the file; logits, loss and gradients are of these
very numbers, computed in fp64. The gradients are then rounded to fp32, once, to halve their file.

The library cannot compute in fp64 by itself: its norms cast to fp32, and so do its rotary angles. Both are patched
here. The norm stays in the dtype it is given. Cosines and sines are made in fp64 and rounded once to fp32, which is
what the model's table is defined to hold (mezzo/kernels/rope/rope.h). The script prints how far the library as it is
lies from the patched one: 4e-7 and 5e-7 of the largest logit, millions of times what the test in fp64 allows.
"""

import math
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

SEED = 20261128
GOLDEN = Path(__file__).resolve().parent.parent / "models/golden"
HEADS = dict(hidden_size=32, num_attention_heads=4, intermediate_size=48)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
# name: configuration, [batch, tokens]
MODELS = {
    "hf_llama": (dict(**HEADS, num_hidden_layers=2, num_key_value_heads=2, vocab_size=96, max_position_embeddings=32,
                      rms_norm_eps=1e-5, tie_word_embeddings=True), (2, 16)),
    "hf_llama3": (dict(**HEADS, num_hidden_layers=1, num_key_value_heads=1, vocab_size=64, max_position_embeddings=64,
                       rope_parameters=LLAMA3), (1, 40)),
}


def fill(model, generator):
    """Weights large enough that every nonlinearity is far from its linear part."""
    for name, p in model.named_parameters():
        value = 0.2 * torch.randn(p.shape, generator=generator)
        p.data = (1 + value if "norm" in name else value).half()


def norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def frequencies(config):
    rope, D = config.rope_parameters, config.head_dim
    frequency = rope["rope_theta"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    if rope["rope_type"] == "default":
        return frequency
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = frequency * rope["original_max_position_embeddings"] / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequency + (1 - kept) * frequency / rope["factor"]


def rotary(self, x, position_ids):
    angles = position_ids[..., None].double() * frequencies(self.config)
    both = torch.cat([angles, angles], dim=-1)
    return both.cos().float().to(x.dtype), both.sin().float().to(x.dtype)


def reference(model, tokens, targets):
    model.zero_grad()
    logits = model(tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    gradients = {"grad." + name: p.grad.clone() for name, p in model.named_parameters()}
    return {"tokens": tokens, "targets": targets, "logits": logits.detach(), "loss": loss.detach(), **gradients}


def patched(model, tokens, targets):
    own = LlamaRMSNorm.forward, LlamaRotaryEmbedding.forward
    LlamaRMSNorm.forward, LlamaRotaryEmbedding.forward = norm, rotary
    result = reference(model, tokens, targets)
    LlamaRMSNorm.forward, LlamaRotaryEmbedding.forward = own
    return result


def far(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def make(name, shape, batch, generator):
    # sdpa stays in fp64, where the eager softmax is cast to fp32.
    config = LlamaConfig(**shape, bos_token_id=None, eos_token_id=None, attn_implementation="sdpa")
    model = LlamaForCausalLM(config).eval()
    fill(model, generator)
    tokens, targets = (torch.randint(config.vocab_size, batch, generator=generator) for _ in range(2))

    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    # Read again: half() has rounded the rotary frequencies, too, which are no weights.
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa")
    as_it_is, golden = reference(model, tokens, targets), patched(model, tokens, targets)
    print(f"{name}: by itself the library is {far(as_it_is['logits'], golden['logits']):.1e} of the largest logit away")
    golden = {key: value.float() if key.startswith("grad.") else value for key, value in golden.items()}
    metadata = {"script": "tests/reference/make_hf_llama_golden.py", "seed": str(SEED),
                "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    save_file(golden, folder / "reference.safetensors", metadata=metadata)
    for file in sorted(folder.iterdir()):
        print(f"{file.relative_to(GOLDEN.parents[2])}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    for name, (shape, batch) in MODELS.items():
        make(name, shape, batch, generator)
