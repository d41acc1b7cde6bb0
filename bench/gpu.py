#!/usr/bin/env python3
"""Times training steps on a GPU: PyTorch's AMP as its users write it, the same under torch.compile, and Mezzo's.

One process a measurement, the sides in turn, so that a GPU whose clock drifts harms all alike. All steps of a process are given
to the GPU at once, which is waited for at their end; the figure of a side is its best mean over the rounds. bench/gpu.sh starts it.

MFU is tokens/s x (6 N + 6 L T d) over the GPU's dense rate in the precision's type (fp8: in 16 bits): N all parameters, the
tied table once; the attention of L layers of width d over T tokens by its causal half, which is what the kernels compute.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from peers.gpt2 import PRESETS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ROOT / "bench/peers/pytorch_step.py"
IS_BUNDLE = (ROOT / "run").exists()
MEZZO = shlex.join([str(ROOT / "run"), "bin/mezzo"] if IS_BUNDLE else [str(ROOT / "build/cuda/bin/mezzo")])


@dataclasses.dataclass
class Row:
    model: str
    precision: str
    batch: int
    length: int
    sides: tuple = ("mezzo", "eager", "compile")
    ours: tuple = ()  # options of Mezzo's alone
    steps: int = 10


ROWS = {
    "124M": Row("gpt2", "amp-bf16", 64, 1024, ("mezzo", "eager", "compile")),
    "1.5B": Row("gpt2-xl", "amp-bf16", 16, 1024, ("mezzo", "eager", "compile")),
    "nano": Row("nano", "amp-bf16", 8, 256, ("mezzo", "eager", "compile", "compile+graphs"),
                steps=200),  # of about a millisecond each
    "124M fp16": Row("gpt2", "amp-fp16", 64, 1024, ("mezzo", "eager")),
    "124M fp32": Row("gpt2", "fp32", 64, 1024, ("mezzo",)),
    "124M lean": Row("gpt2", "lean", 64, 1024, ("mezzo",)),
    "1.5B lean": Row("gpt2-xl", "lean", 16, 1024, ("mezzo",)),
    # What goes into an fp8 product is a byte a number: it is kept rather than made again.
    "1.5B fp8": Row("gpt2-xl", "fp8", 16, 1024, ("mezzo",), ("--recompute", "none")),
    "1.5B fp8 delayed": Row("gpt2-xl", "fp8", 16, 1024, ("mezzo",),
                            ("--recompute", "none", "--fp8-scaling", "delayed")),
}
PEER_OPTIONS = {
    "eager": [],
    "compile": ["--compile"],
    "compile+graphs": ["--compile", "reduce-overhead"],  # forward and backward as CUDA graphs; Mezzo's step is one
}
# Dense FLOP/s of one GPU (SXM) by its data sheet: of 16-bit types, and of fp32 outside the Tensor Cores. fp8 is held to the former,
# which its outer blocks and its head run in: its use then stands beside lean's.
PEAKS = {"H100": (989e12, 67e12), "H200": (989e12, 67e12), "A100": (312e12, 19.5e12)}


def flop_per_token(row):
    model = PRESETS[row.model]
    block = (12 * model.width + 13) * model.width
    parameters = model.layers * block + (model.vocab_size + model.context + 2) * model.width
    return 6 * parameters + 6 * model.layers * row.length * model.width


def mfu(row, tokens_per_s, gpu):
    for name, (bits16, fp32) in PEAKS.items():
        if name in gpu:
            return tokens_per_s * flop_per_token(row) / (fp32 if row.precision == "fp32" else bits16)
    return None


def command(row, side, options):
    shared = ["--model", row.model, "--device", "cuda", "--batch", str(row.batch), "--length", str(row.length),
              "--steps", str(options.steps or row.steps), "--json", "--precision", row.precision]
    if side == "mezzo":
        return [*shlex.split(options.mezzo), "bench", "step", *shared, *row.ours]
    return [sys.executable, str(PEER), *shared, *PEER_OPTIONS[side]]


def measure(row, side, options):
    try:
        done = subprocess.run(command(row, side, options), capture_output=True, text=True, timeout=options.limit)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {options.limit} s"}
    except OSError as error:
        return {"failed": str(error)}
    except (IndexError, ValueError):
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][-300:]}


def mean_ms(sample):
    return sample.get("mean_ms", sample.get("median_ms"))  # Mezzo's median is a mean on a GPU


def best(samples):
    good = [sample for sample in samples if mean_ms(sample)]
    return min(good, key=mean_ms) if good else None


def print_table(results, gpu):
    print(f"{'':<16} {'side':<14} {'mean ms':>9} {'tokens/s':>10} {'MFU':>6} {'GiB':>6}  Mezzo is")
    for name, sides in results.items():
        ours = best(sides.get("mezzo", []))
        for side, samples in sides.items():
            figure = best(samples)
            if figure is None:
                print(f"{name:<16} {side:<14} {samples[-1].get('failed', samples[-1])}")
                continue
            use = mfu(ROWS[name], figure["tokens_per_s"], gpu)
            line = (f"{name:<16} {side:<14} {mean_ms(figure):>9.2f} {figure['tokens_per_s']:>10.0f} "
                    f"{f'{100 * use:.1f}%' if use else '-':>6} {figure['peak_tensor_bytes'] / 2**30:>6.2f}")
            if ours and side != "mezzo":
                line += (f"  {mean_ms(figure) / mean_ms(ours):.2f}x as fast in "
                         f"{ours['peak_tensor_bytes'] / figure['peak_tensor_bytes']:.2f} of the memory")
            print(line + (f"  ({figure['note']})" if figure.get("note") else ""))


def measure_row(name, results, options, began, gpu):
    for side in ROWS[name].sides:
        if (options.sides and side not in options.sides.split(",")) or time.monotonic() - began > options.budget:
            continue
        sample = measure(ROWS[name], side, options)
        results.setdefault(name, {}).setdefault(side, []).append(sample)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"gpu": gpu, "samples": results}, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, by name")
    parser.add_argument("--sides", default="", help="these sides alone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of each measurement; a row's own number unless given")
    parser.add_argument("--mezzo", default=MEZZO, help="how Mezzo is started")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one measurement")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which none is begun")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / ("gpu.json" if IS_BUNDLE else "build/gpu.json"), help="every sample")
    options = parser.parse_args()

    import torch
    gpu = torch.cuda.get_device_name()
    began = time.monotonic()
    results = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as `timeout` ends it
    try:
        for _ in range(options.rounds):
            for name in options.only.split(","):
                measure_row(name, results, options, began, gpu)
    finally:  # what was measured until it was interrupted, too
        print(gpu)
        print_table(results, gpu)


main()
