#!/usr/bin/env python3
"""Writes what torch.amp.GradScaler does into a folder (tests/amp/golden):

grad_scaler.json         scripted gradients. Each scenario names the scaler's arguments and a word of steps: f a finite
                         gradient, i one Inf in it, n one NaN, I an Inf in one optimizer of two. Recorded after each
                         update(): scale, growth tracker, and the weight, so that a skipped step shows.
grad_scaler_usage.json   small trainings, one a way to use the scaler (clipping, accumulation, penalty, ...); sparse
                         gradients; which calls are errors in which order; the state dict over time.
scaler_state.pt          a state dict, saved by torch.save.

Usage: make_scaler_goldens.py FOLDER
       make_scaler_goldens.py --check FILE    load a state dict's file that C++ wrote, print it as JSON
"""

import itertools
import json
import math
import pathlib
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


# ---- Small trainings. The same net, numbers and order are in tests/amp/grad_scaler_usage_test.cpp.

STEPS = 5
INF_AT = 2  # the step whose first gradient gets an Inf
TRAINING = {"init_scale": 128.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 1}


class Net:
    def __init__(self, offset):
        hidden = [[((3 * row + column + offset) % 5 - 2) / 4 for column in range(3)] for row in range(4)]
        self.hidden = torch.tensor(hidden, requires_grad=True)
        self.out = torch.tensor([0.5, -0.25 * (offset + 1), 0.75], requires_grad=True)
        self.parameters = [self.hidden, self.out]

    def __call__(self, x):
        return torch.tanh(x @ self.hidden) @ self.out


def batch(step):
    x = torch.tensor([[((7 * step + 4 * row + column) % 9 - 4) / 4 for column in range(4)] for row in range(2)])
    return x, torch.tensor([float(step % 3 - 1), 0.5])


def poison(net, step):
    if step == INF_AT:
        with torch.no_grad():
            net.hidden.grad[0, 0] = math.inf


def zero(nets):
    for parameter in (p for net in nets for p in net.parameters):
        parameter.grad = None


def train(name):
    mse = torch.nn.functional.mse_loss
    nets = [Net(0), Net(1)] if name == "two_models" else [Net(0)]
    fused = name.startswith("fused")
    optimizers = [torch.optim.SGD(net.parameters, lr=LR, fused=fused) for net in nets]
    net, optimizer = nets[0], optimizers[0]
    scaler = torch.amp.GradScaler("cpu", **TRAINING)
    rows = []
    for step in range(STEPS):
        zero(nets)
        x, y = batch(step)
        if name == "two_models":
            out = [n(x) for n in nets]
            losses = [mse(out[0] + out[1] / 2, y), mse(out[0] / 2 - out[1], y)]
            scaler.scale(losses[0]).backward(retain_graph=True)
            scaler.scale(losses[1]).backward()
        elif name == "accumulate":
            losses = [mse(net(x), y) / 2, mse(net(-x), y) / 2]
            for loss in losses:
                scaler.scale(loss).backward()
        elif name == "penalty":
            losses = [mse(net(x), y)]
            grads = torch.autograd.grad(scaler.scale(losses[0]), net.parameters, create_graph=True)
            grads = [g * (1.0 / scaler.get_scale()) for g in grads]
            losses[0] = losses[0] + sum(g.pow(2).sum() for g in grads).sqrt()
            scaler.scale(losses[0]).backward()
        else:
            losses = [mse(net(x), y)]
            scaler.scale(losses[0]).backward()
        poison(nets[-1], step)
        if name in ("unscale", "clip_unscaled", "fused_unscale", "two_models"):
            scaler.unscale_(optimizer)  # of two models the first only
        if name == "clip_unscaled":
            torch.nn.utils.clip_grad_norm_(net.parameters, 0.1)
        if name == "clip_scaled":
            torch.nn.utils.clip_grad_norm_(net.parameters, 0.1 * scaler.get_scale())
        for each in optimizers:
            scaler.step(each)
        if name == "new_scale" and step == 1:
            scaler.update(32.0)
        elif name == "new_scale" and step == 3:
            scaler.update(torch.tensor(1024.0))
        else:
            scaler.update()
        rows.append({"losses": [loss.item() for loss in losses], "scale": scaler.get_scale(),
                     "growth_tracker": scaler._get_growth_tracker(),
                     "weights": [p.detach().flatten().tolist() for n in nets for p in n.parameters]})
    return rows


TRAININGS = ["plain", "unscale", "clip_scaled", "clip_unscaled", "accumulate", "penalty", "two_models", "new_scale",
             "fused", "fused_unscale"]


# ---- Sparse gradients: values at indices of a vector of 4, unscaled from a scale of 128.

SPARSE = {
    "finite": ("float32", [1, 3], [4.0, 8.0]),
    "duplicates": ("float32", [1, 1, 3], [4.0, 8.0, 16.0]),
    "inf": ("float32", [1, 3], [math.inf, 8.0]),
    "nan": ("float32", [1, 3], [4.0, math.nan]),
    "half": ("float16", [1, 3], [4.0, 8.0]),
    "half_duplicates": ("float16", [1, 1], [64000.0, 64000.0]),
}


def sparse(dtype, indices, values):
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=getattr(torch, dtype)))
    parameter.grad = torch.sparse_coo_tensor([indices], torch.tensor(values, dtype=parameter.dtype), (4,))
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    scaler.scale(torch.ones(()))
    # Not unscale_, which refuses fp16.
    found = scaler._unscale_grads_(torch.optim.SGD([parameter], lr=LR), torch.tensor(1 / 128), torch.tensor(0.0), True)
    found_inf = max(f.item() for f in found.values())
    dense = parameter.grad.to_dense().tolist() if found_inf == 0 else None
    return {"dtype": dtype, "indices": indices, "values": [str(v) for v in values], "found_inf": found_inf,
            "unscaled": dense}


# ---- Which calls are errors. A word is calls in a row: s scale, u unscale_, p step, c step with a closure, U update.
# Words whose calls all but the last succeed.

def succeeds(word, fused, has_grad):
    parameter = torch.nn.Parameter(torch.ones(2))
    if has_grad:
        parameter.grad = torch.ones(2)
    optimizer = torch.optim.SGD([parameter], lr=LR, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    calls = {"s": lambda: scaler.scale(torch.ones(())), "u": lambda: scaler.unscale_(optimizer),
             "p": lambda: scaler.step(optimizer), "c": lambda: scaler.step(optimizer, closure=lambda: None),
             "U": scaler.update}
    for call in word[:-1]:
        calls[call]()
    try:
        calls[word[-1]]()
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def orders(fused, has_grad, longest=6):
    words = {}
    alive = [""]
    for _ in range(longest):
        tried = ["".join(pair) for pair in itertools.product(alive, "supcU")]
        words.update({word: succeeds(word, fused, has_grad) for word in tried})
        # A second scale() in a row changes nothing: not followed.
        alive = [word for word in tried if words[word] and not word.endswith("ss")]
    return {"fused": fused, "has_grad": has_grad, "words": words}


# ---- The state dict before the first scale(), after it, after a step; then in another scaler.

def states():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=LR)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3)
    rows = [scaler.state_dict()]

    def step():
        scaler.scale(parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        rows.append(scaler.state_dict())

    scaler.scale(torch.ones(()))
    rows.append(scaler.state_dict())
    step()
    step()
    saved = rows[-1]
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(saved)  # before its first scale()
    rows.append(scaler.state_dict())
    step()
    scaler.load_state_dict(saved)  # after it
    rows.append(scaler.state_dict())
    step()
    return rows


def refuses(arguments):
    try:
        torch.amp.GradScaler("cpu", **arguments)
    except AssertionError:
        return True
    return False


REFUSED = [{"growth_factor": 1.0}, {"growth_factor": 0.5}, {"backoff_factor": 1.0}, {"backoff_factor": 1.5}]


def write_json(path, golden):
    head = {"torch": torch.__version__, "script": "tests/reference/make_scaler_goldens.py", "lr": LR}
    path.write_text(json.dumps({**head, **golden}, indent=1) + "\n")


def main():
    if sys.argv[1] == "--check":
        print(json.dumps(torch.load(sys.argv[2])))
        return
    folder = pathlib.Path(sys.argv[1])
    write_json(folder / "grad_scaler.json", {"scenarios": [run(s) for s in SCENARIOS]})
    write_json(folder / "grad_scaler_usage.json", {
        "trainings": {name: train(name) for name in TRAININGS},
        "sparse": {name: sparse(*case) for name, case in SPARSE.items()},
        "orders": [orders(fused, has_grad) for fused in (False, True) for has_grad in (True, False)],
        "states": states(),
        "refused": [arguments for arguments in REFUSED if refuses(arguments)],
    })
    torch.save({"scale": 4096.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                "_growth_tracker": 7}, folder / "scaler_state.pt")


main()
