#!/usr/bin/env python3
"""Times a training step of Mezzo against Python PyTorch on this machine, in turn, and prints the ratios.

Each round starts one process of either side after the other, so that a machine whose speed drifts harms both alike. The
figure of a side is the best median over its rounds. Run it through `make bench`, which builds and sets up both sides:

    make bench                                        nano in fp32, amp-bf16 and amp-fp16
    make bench ARGS="--models nano,mini --precisions amp-bf16 --rounds 5"
    make bench ARGS="--tuned --compile"               PyTorch at its very best
    make bench ARGS="--tuned"                         PyTorch with the allocator settings its experts use
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEZZO = ROOT / "build/release/bin/mezzo"
PEER = ROOT / "bench/peers/pytorch_step.py"

# What a PyTorch user can set from outside to make freed memory be reused; see bench/README.md.
TUNED = {"THP_MEM_ALLOC_ENABLE": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}

# What PyTorch's users run where Mezzo's run lean, with or without their gradients released.
PEER_PRECISION = {"lean": "amp-bf16", "lean-released": "amp-bf16"}
OURS = {"lean-released": ["--precision", "lean", "--release-gradients"]}


def run(command, environment):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def measure(model, precision, options):
    shared = ["--model", model, "--json", "--threads", str(options.threads), "--steps", str(options.steps)]
    ours_in = OURS.get(precision, ["--precision", precision])
    theirs_in = ["--precision", PEER_PRECISION.get(precision, precision)]
    peer_environment = TUNED if options.tuned else {}
    compiled = ["--compile"] if options.compile else []
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(run([MEZZO, "bench", "step", *shared, *ours_in], {}))
        if not theirs or theirs[-1]["steps"] == options.steps:  # it times fewer of steps that take very long
            shape = ["--batch", str(ours[-1]["batch"]), "--length", str(ours[-1]["length"])]
            peer = [sys.executable, PEER, *shared, *shape, *theirs_in, *compiled]
            theirs.append(run(peer, peer_environment))
    return {"model": model, "precision": precision, "mezzo": ours, "pytorch": theirs}


def mezzo_start_rss_bytes():
    """Of a process that loads the program and its libraries, and ends. To be called before any other process is run."""
    subprocess.run([MEZZO, "--version"], stdout=subprocess.DEVNULL, check=True)
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def best(rows, key):
    return min(row[key] for row in rows)


def print_row(result):
    ours, theirs = best(result["mezzo"], "median_ms"), best(result["pytorch"], "median_ms")
    rss = [best(result[side], "peak_rss_bytes") / 2**20 for side in ("mezzo", "pytorch")]
    print(f"{result['model']:<11} {result['precision']:<13} {ours:>10.1f} {theirs:>12.1f} {theirs / ours:>8.2f}x"
          f" {rss[0]:>10.0f} {rss[1]:>12.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="nano")
    parser.add_argument("--precisions", default="fp32,amp-bf16,amp-fp16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tuned", action="store_true", help="PyTorch with its allocator tuned by environment variables")
    parser.add_argument("--compile", action="store_true", help="PyTorch with torch.compile")
    parser.add_argument("--out", type=pathlib.Path, help="write every sample to this JSON file")
    parser.add_argument("--peers", type=pathlib.Path, help="write PyTorch's figures as `mezzo compare --peers` takes them")
    options = parser.parse_args()
    if options.peers and "," in options.models:
        parser.error(f"--peers takes the figures of one model, but --models is {options.models}")

    mezzo_start = mezzo_start_rss_bytes()
    print(f"{'model':<11} {'precision':<13} {'mezzo ms':>10} {'pytorch ms':>12} {'ratio':>9} {'mezzo MiB':>10} "
          f"{'pytorch MiB':>12}", flush=True)
    results = []
    for model in options.models.split(","):
        for precision in options.precisions.split(","):
            results.append(measure(model, precision, options))
            print_row(results[-1])
    peer_start = best(results[0]["pytorch"], "imports_rss_bytes")
    print(f"Before its first tensor a process of Mezzo has {mezzo_start / 2**20:.0f} MiB, of PyTorch {peer_start / 2**20:.0f}.")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.peers:
        peers = [{"name": f"PyTorch {PEER_PRECISION.get(result['precision'], result['precision'])}",
                  "step_ms": best(result["pytorch"], "median_ms")} for result in results]
        options.peers.write_text(json.dumps(peers, indent=1) + "\n")


main()
