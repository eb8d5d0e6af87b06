#!/usr/bin/env python
"""Cost and speed of pipelines beside each other: multiply-accumulates of an image, and images/s with their stored strategies.

    python benchmarks/pipelines.py model_cards/autonat-fashion-mnist model_cards/enat-fashion-mnist \
        --output benchmarks/results/pipelines.json

The pipelines take turns, so that a busy machine slows all of them. Decoding is included.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.cost import pipeline_cost
from diffusers_autonat.provenance import hardware, versions


def images_per_second(pipe: AutoNATPipeline, steps: int, batch_size: int, device: str) -> float:
    labels = [i % pipe.transformer.config.num_classes for i in range(batch_size)]
    generator = torch.Generator(device).manual_seed(0)
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    pipe(labels, num_inference_steps=steps, generator=generator, output_type="pt")
    if device == "cuda":
        torch.cuda.synchronize()
    return batch_size / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders or Hub ids")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="pipelines.json")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipelines = {Path(name).name: AutoNATPipeline.from_pretrained(name).to(device) for name in args.pipelines}
    rows = []
    for steps in args.steps:
        for batch_size in args.batch_sizes:
            speeds: dict[str, list[float]] = {name: [] for name in pipelines}
            turns = [(number, name) for number in range(args.rounds + 1) for name in pipelines]
            for number, name in tqdm(turns, desc=f"T = {steps}, batch {batch_size}"):
                pipelines[name].set_progress_bar_config(disable=True)
                speed = images_per_second(pipelines[name], steps, batch_size, device)
                if number > 0:  # the first round warms up
                    speeds[name].append(speed)
            for name, pipe in pipelines.items():
                cost = pipeline_cost(pipe, pipe.scheduler.get_strategy(steps))
                rows.append({
                    "pipeline": name, "steps": steps, "batch_size": batch_size, "macs": cost.total,
                    "decoder_macs": sum(cost.decoder), "images_per_second": statistics.median(speeds[name]),
                    "rounds": speeds[name],
                })  # fmt: skip
                print(f"T = {steps}, batch {batch_size:3}: {name:26} {cost.total / 1e6:8.1f} M multiply-accumulates,",
                      f"{rows[-1]['images_per_second']:8.1f} images/s")  # fmt: skip
    result = {"rows": rows, "device": device, "hardware": hardware(), "versions": versions("torch", "diffusers")}
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
