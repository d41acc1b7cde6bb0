#!/usr/bin/env python3
"""Writes tests/amp/golden/grad_scaler.json: what torch.amp.GradScaler does on scripted gradients.

Each scenario names the scaler's arguments and a word of steps: f a finite gradient, i one Inf in it, n one NaN,
I an Inf in one optimizer of two. Recorded after each update(): scale, growth tracker, and the weight, so that a skipped
step shows. Usage: make_scaler_goldens.py OUTPUT
"""

import json
import math
import sys

import torch

SCENARIOS = [
    {"init_scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3,
     "steps": "fffffifffffnfffifiiffff"},
    {"init_scale": 4.0, "growth_factor": 2.0, "backoff_factor": 0.25, "growth_interval": 2, "steps": "ffffiffff"},
    {"init_scale": 1000.0, "growth_factor": 1.5, "backoff_factor": 0.7, "growth_interval": 1, "steps": "fffifnffff"},
    {"init_scale": 1e38, "growth_factor": 16.0, "backoff_factor": 0.5, "growth_interval": 1, "steps": "ffffif"},
    {"init_scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "steps": "iiiifff"},
    {"init_scale": 128.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 1, "steps": "fIfIff"},
]

LR = 0.125


def gradient(symbol, step):
    bad = {"i": math.inf, "n": math.nan}.get(symbol)
    grad = torch.tensor([0.5, -1.0 - step])
    if bad is not None:
        grad[step % 2] = bad
    return grad


def run(scenario):
    arguments = {k: v for k, v in scenario.items() if k != "steps"}
    scaler = torch.amp.GradScaler("cpu", **arguments)
    weights = [torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    optimizers = [torch.optim.SGD([w], lr=LR) for w in weights]
    rows = []
    for step, symbol in enumerate(scenario["steps"]):
        for index, weight in enumerate(weights):
            of_this = symbol if symbol != "I" else ("i" if index == 1 else "f")
            weight.grad = None
            # The loss is weight . gradient, so that backward yields scale * gradient.
            scaler.scale((weight * gradient(of_this, step)).sum()).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        rows.append({"scale": scaler.get_scale(), "growth_tracker": scaler._get_growth_tracker(),
                     "weights": [w.detach().tolist() for w in weights]})
    return {**scenario, "trajectory": rows, "state_dict": scaler.state_dict()}


def main():
    golden = {"torch": torch.__version__, "script": "tests/reference/make_scaler_goldens.py", "lr": LR,
              "scenarios": [run(s) for s in SCENARIOS]}
    with open(sys.argv[1], "w") as out:
        json.dump(golden, out, indent=1)
        out.write("\n")


main()
