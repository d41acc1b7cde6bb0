"""Golden files for tests/models and tests/optim: what PyTorch in Python computes, in fp64.

    python tests/reference/make_gpt2_goldens.py

writes tests/models/golden/gpt2_tiny.safetensors and tests/optim/golden/adamw.safetensors beside
this script's folder. It needs torch (CPU is enough), numpy and safetensors.

Weights and inputs are drawn in fp32 and then widened, so a test in fp32 starts from the very same
numbers; everything computed is fp64, so a test knows the exact answer to its own precision.
"""

import math
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

SEED = 20240607
TESTS = Path(__file__).resolve().parent.parent
METADATA = {
    "script": "tests/reference/make_gpt2_goldens.py",
    "torch": torch.__version__.split("+")[0],
    "seed": str(SEED),
}

LAYERS, HEADS, WIDTH, CONTEXT, VOCAB = 2, 2, 32, 16, 64
BATCH, TRAIN_STEPS = 3, 20
LR, BETAS, EPS, WEIGHT_DECAY, MAX_NORM = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0


# --- GPT-2, written out ---------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        B, T, C = x.shape
        split_heads = lambda t: t.view(B, T, HEADS, C // HEADS).transpose(1, 2)
        q, k, v = (split_heads(t) for t in self.c_attn(x).split(C, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // HEADS)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH)
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = self.c_fc(x)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.c_proj(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.mlp = MLP()

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(VOCAB, WIDTH)
        self.wpe = nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T  # the head is the token embedding

    def loss(self, tokens, targets):
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


def fill(model, generator):
    """Weights large enough that every nonlinearity is far from its linear part."""
    for name, p in model.named_parameters():
        value = 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float32)
        is_norm_weight = ".ln_" in f".{name}" and name.endswith("weight")
        p.data = (1 + value if is_norm_weight else value).double()


def decay_groups(named):
    named = list(named)
    return [
        {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
    ]


def gpt2_tiny():
    generator = torch.Generator().manual_seed(SEED)
    model = GPT2()
    fill(model, generator)
    text = torch.randint(VOCAB, (TRAIN_STEPS, BATCH, CONTEXT + 1), generator=generator)
    tokens, targets = text[..., :-1].contiguous(), text[..., 1:].contiguous()

    out = {f"weight.{n}": p.detach().float() for n, p in model.named_parameters()}
    out |= {"tokens": tokens, "targets": targets, "logits": model(tokens[0]).detach()}
    loss = model.loss(tokens[0], targets[0])
    loss.backward()
    out["loss"] = loss.detach()
    out |= {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()}

    optimizer = torch.optim.AdamW(
        decay_groups(model.named_parameters()), lr=LR, betas=BETAS, eps=EPS, fused=False
    )
    losses, norms = [], []
    for step in range(TRAIN_STEPS):
        optimizer.zero_grad()
        loss = model.loss(tokens[step], targets[step])
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM))
        optimizer.step()
        losses.append(loss.detach())
    return out | {"train.losses": torch.stack(losses), "train.norms": torch.stack(norms)}


# --- AdamW and clipping, on scripted gradients ----------------------------------------------------

SHAPES = {"matrix": (7, 5), "cube": (3, 4, 2), "bias": (5,)}
ADAMW_STEPS = 10
CUBE_WITHOUT_GRAD = (3, 7)


def adamw_trajectory(start, grads, amsgrad):
    params = {n: nn.Parameter(start[n].double()) for n in SHAPES}
    optimizer = torch.optim.AdamW(
        decay_groups(params.items()), lr=LR, betas=BETAS, eps=EPS, amsgrad=amsgrad, fused=False
    )
    path = {n: [] for n in SHAPES}
    for step in range(ADAMW_STEPS):
        for n, p in params.items():
            absent = n == "cube" and step in CUBE_WITHOUT_GRAD
            p.grad = None if absent else grads[n][step].double()
        optimizer.step()
        for n, p in params.items():
            path[n].append(p.detach().clone())
    out = {f"param.{n}": torch.stack(path[n]) for n in SHAPES}
    for n, p in params.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            out[f"{key}.{n}"] = optimizer.state[p][key].double()
    return out


def clipped(grads, max_norm):
    params = [nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads]
    for p, g in zip(params, grads):
        p.grad = g.double()
    norm = nn.utils.clip_grad_norm_(params, max_norm)
    return norm, [p.grad for p in params]


def adamw():
    generator = torch.Generator().manual_seed(SEED)
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float32)
    start = {n: randn(*shape) for n, shape in SHAPES.items()}
    grads = {n: 0.1 * randn(ADAMW_STEPS, *shape) for n, shape in SHAPES.items()}

    out = {f"start.{n}": t for n, t in start.items()} | {f"grad.{n}": t for n, t in grads.items()}
    out["has_grad.cube"] = torch.tensor([s not in CUBE_WITHOUT_GRAD for s in range(ADAMW_STEPS)]).long()
    for name, amsgrad in (("plain", False), ("amsgrad", True)):
        out |= {f"{name}.{k}": t for k, t in adamw_trajectory(start, grads, amsgrad).items()}

    first = [grads[n][0] for n in SHAPES]
    for name, max_norm in (("below", 0.25), ("above", 100.0)):
        norm, after = clipped(first, max_norm)
        out |= {f"clip_{name}.max_norm": torch.tensor(max_norm).double(), f"clip_{name}.norm": norm}
        out |= {f"clip_{name}.grad.{n}": g for n, g in zip(SHAPES, after)}
    return out


def write(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.contiguous().clone() for name, t in tensors.items()}
    save_file(tensors, path, metadata=METADATA)
    print(f"{path.relative_to(TESTS.parent)}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(TESTS / "models/golden/gpt2_tiny.safetensors", gpt2_tiny())
    write(TESTS / "optim/golden/adamw.safetensors", adamw())
