#!/usr/bin/env python
r"""Cost and speed of pipelines beside each other: multiply-accumulates of an image, and images/s with their stored strategies.

    python benchmarks/pipelines.py model_cards/autonat-fashion-mnist model_cards/enat-fashion-mnist \
        --output benchmarks/results/pipelines.json

The pipelines take turns, so that a busy machine slows all of them. Decoding is included.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.cost import pipeline_cost
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device, load_pipeline


def generate(pipe: AutoNATPipeline, steps: int, batch_size: int) -> None:
    labels = [i % pipe.transformer.config.num_classes for i in range(batch_size)]
    pipe(labels, steps, generator=torch.Generator(pipe.device).manual_seed(0), output_type="pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders or Hub ids")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="pipelines.json")
    args = parser.parse_args()
    device = default_device()
    pipelines = {Path(name).name: load_pipeline(name, device=device) for name in args.pipelines}
    for pipe in pipelines.values():
        pipe.set_progress_bar_config(disable=True)
    rows = []
    for steps in args.steps:
        for batch_size in args.batch_sizes:
            candidates = {name: partial(generate, pipe, steps, batch_size) for name, pipe in pipelines.items()}
            taken = interleaved(candidates, args.rounds, description=f"T = {steps}, batch {batch_size}")
            for name, pipe in pipelines.items():
                speeds = [batch_size / seconds for seconds in taken[name]]
                median, spread = median_and_spread(speeds)
                cost = pipeline_cost(pipe, pipe.scheduler.get_strategy(steps))
                rows.append({
                    "pipeline": name, "steps": steps, "batch_size": batch_size, "macs": cost.total,
                    "decoder_macs": sum(cost.decoder), "images_per_second": median, "spread": spread,
                    "rounds": speeds,
                })  # fmt: skip
                print(f"T = {steps}, batch {batch_size:3}: {name:26} {cost.total / 1e6:8.1f} M multiply-accumulates,",
                      f"{median:8.1f} images/s")  # fmt: skip
    result = {"rows": rows, "device": device, **made_with()}
    write_json(args.output, result)


if __name__ == "__main__":
    main()
