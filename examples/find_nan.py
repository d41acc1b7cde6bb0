"""A Python PyTorch program whose loss is NaN, and where the NaN was born.

    python examples/find_nan.py build/release/lib/libmezzo_watch.so

The model knows nothing of it: loading the library and watch_start() are all there is to add; watch_name() gives its
parameters the names that a place is told by.
"""

import sys

import torch


class Attention(torch.nn.Module):
    """With a softmax by hand, that leaves out to take the largest score away first."""

    def __init__(self, width):
        super().__init__()
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = torch.exp(q @ k.transpose(-1, -2))
        return self.out(weights / weights.sum(-1, keepdim=True) @ v)


def main():
    torch.manual_seed(0)
    torch.ops.load_library(sys.argv[1])
    torch.ops.mezzo.watch_start()

    model = torch.nn.Sequential(torch.nn.Linear(16, 64), Attention(64), torch.nn.Linear(64, 16)).half()
    for name, parameter in model.named_parameters():
        torch.ops.mezzo.watch_name(name, parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(50):
        x = torch.randn(8, 32, 16).half() * (1 + step / 5)
        loss = (model(x) - x).float().pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            print(f"step {step}: loss {loss.item()}")
            break
    print(torch.ops.mezzo.watch_report())


if __name__ == "__main__":
    main()
