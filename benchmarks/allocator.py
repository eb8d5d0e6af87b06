#!/usr/bin/env python
"""Does another allocator of memory pay on a CPU? An image and a training step under each, in turn.

    python benchmarks/allocator.py --model S --dtype bfloat16 --output benchmarks/results/allocator.json

Large tensors are given back to the system after each operation and taken from it again, which writes zeros into them first.
`glibc, keeping` tells the C library to keep them; `tcmalloc` is preloaded where it is installed (Debian: libtcmalloc-minimal4).
Each round starts a process under each; what it needs to start is not counted.
"""

import argparse
import os
import subprocess
import sys
from ctypes.util import find_library
from functools import partial

import torch
from generate import ways_of
from timing import in_turn, made_with, median_and_spread, seconds
from training_overhead import bare

from diffusers_autonat.files import write_json


MODELS = {"S": "AutoNAT-S", "tiny": "tiny"}
ALLOCATORS = {
    "glibc": {},
    "glibc, keeping": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)},
    "tcmalloc": {"LD_PRELOAD": find_library("tcmalloc_minimal")},
}


def generating(model: str, dtype: str) -> float:
    """Seconds of an image of T = 8."""
    draw = ways_of(MODELS[model], 256, 8, 1, getattr(torch, dtype), "cpu")["ours"].draw
    draw()
    return min(seconds(draw) for _ in range(3))


def training(model: str, dtype: str) -> float:
    """Seconds of a step with 8 images."""
    return 8 / bare(model, dtype, batch_size=8, steps=4, sample_size=16, codebook_size=1024, device="cpu")


WORK = {"generate": generating, "train": training}


def in_process(work: str, args, environment: dict[str, str]) -> float:
    command = [sys.executable, __file__, "--model", args.model, "--dtype", args.dtype, "--only", work]
    made = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return float(made.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WORK, help="print the seconds of this, in this process")
    parser.add_argument("--output", default="allocator.json")
    args = parser.parse_args()
    if args.only:
        print(WORK[args.only](args.model, args.dtype))
        return
    rows = []
    for work in WORK:
        measures = {
            name: partial(in_process, work, args, environment)
            for name, environment in ALLOCATORS.items()
            if None not in environment.values()
        }
        rounds = list(in_turn(measures, args.rounds, description=work))
        for name in measures:
            ratio, spread = median_and_spread([one["glibc"] / one[name] for one in rounds])
            taken = [one[name] for one in rounds]
            rows.append({"work": work, "allocator": name, "ratio": ratio, "spread": spread, "seconds": taken})
            print(f"{work}: {name:14} {ratio:.2f} times as fast (spread {spread:.0%})")
    write_json(
        args.output,
        {"rows": rows, "model": args.model, "dtype": args.dtype, "environments": ALLOCATORS, **made_with()},
    )


if __name__ == "__main__":
    main()
