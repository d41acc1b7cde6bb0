"""GPT-2 in Python PyTorch, as its users write it: the fused attention op, the tied head, cross entropy on flat logits."""

import dataclasses

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclasses.dataclass
class Config:
    layers: int
    width: int
    heads: int
    context: int
    vocab_size: int


PRESETS = {
    "nano": Config(layers=4, width=256, heads=4, context=256, vocab_size=4096),
    "mini": Config(layers=6, width=384, heads=6, context=256, vocab_size=8192),
    "gpt2": Config(layers=12, width=768, heads=12, context=1024, vocab_size=50304),
    "gpt2-xl": Config(layers=48, width=1600, heads=25, context=1024, vocab_size=50304),
}


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.ln_1 = nn.LayerNorm(config.width)
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.attn_proj = nn.Linear(config.width, config.width)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(approximate="tanh"), nn.Linear(4 * config.width, config.width)
        )

    def attention(self, x):
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in self.c_attn(x).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_proj(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.apply(self.initialize)
        self.head.weight = self.wte.weight

    @staticmethod
    def initialize(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens, targets):
        """The loss alone: logits that are handed out would outlive the backward pass."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.ln_f(x)).flatten(0, 1), targets.flatten())
