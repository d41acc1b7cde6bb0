#!/usr/bin/env python3
"""One training step in Python PyTorch, written as its users write it; the peer of `mezzo bench step`.

Same model, batch, random tokens, AdamW, clipping and timing rule; prints the same JSON keys, but for a GPU's mean, which Mezzo
calls its median.
"""

import argparse
import contextlib
import json
import resource
import statistics
import time

import torch

import gpt2
import llama

MODELS = {name: (make, config) for make, presets in ((gpt2.GPT2, gpt2.PRESETS), (llama.Llama, llama.PRESETS))
          for name, config in presets.items()}
DTYPES = {"fp32": None, "amp-bf16": torch.bfloat16, "amp-fp16": torch.float16,
          "pure-bf16": torch.bfloat16, "pure-fp16": torch.float16}


def peak_rss_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


IMPORTS_RSS_BYTES = peak_rss_bytes()  # the interpreter and all of the above, before the first tensor
SLOW_MS = 8000  # from here on an fp16 step is one that a CPU without fp16 arithmetic takes in a scalar loop


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--precision", choices=DTYPES, default="amp-bf16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--accumulate", type=int, default=1, help="batches of a step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", nargs="?", const="default", metavar="MODE", help="torch.compile the model")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def times_of(step, options):
    """Milliseconds of each timed step, after the warm-up; on a GPU, which is waited for at the end alone, their mean."""
    def mean_ms(steps):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start) / steps

    steps = options.steps
    if options.compile:
        step()  # is compiled
    if mean_ms(1) > SLOW_MS and "fp16" in options.precision:
        steps = 1
    for _ in range(min(3, steps) - 1):
        mean_ms(1)
    return [mean_ms(steps)] if options.device == "cuda" else [mean_ms(1) for _ in range(steps)]


def measure(options):
    torch.manual_seed(1)

    make, config = MODELS[options.model]
    dtype = DTYPES[options.precision]
    is_amp = options.precision.startswith("amp")
    is_cuda = options.device == "cuda"
    model = make(config).to(options.device)
    if options.precision.startswith("pure"):
        model = model.to(dtype)
    run = torch.compile(model, mode=options.compile) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler(options.device, enabled=options.precision == "amp-fp16")
    tokens = torch.randint(config.vocab_size, (options.accumulate, options.batch, options.length + 1)).to(options.device)

    def step():
        for micro in tokens:
            with torch.autocast(options.device, dtype=dtype) if is_amp else contextlib.nullcontext():
                loss = run(micro[:, :-1], micro[:, 1:]) / options.accumulate
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    times = times_of(step, options)
    typical = statistics.median(times)
    figures = {"mean_ms": typical} if is_cuda else {"steps": len(times), "min_ms": min(times), "median_ms": typical}
    return {**figures, "tokens_per_s": 1e3 * options.accumulate * options.batch * options.length / typical,
            "peak_tensor_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
            "imports_rss_bytes": IMPORTS_RSS_BYTES, "peak_rss_bytes": peak_rss_bytes()}


def main():
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = measure(options)
    print(json.dumps(result) if options.json else result)


main()
