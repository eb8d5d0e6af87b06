#!/usr/bin/env python
r"""The first step once for each class: how many tokens that turns by rounding, and what it saves.

    python benchmarks/first_step.py model_cards/autonat-fashion-mnist model_cards/enat-fashion-mnist \
        --steps 4 8 --batch-sizes 8 64 --dtypes float32 bfloat16 --output benchmarks/results/first_step.json

Three ways to draw the same images, in turn: a row of the first step for each image (`own`; what a pipeline does with tokens that
are given, here masks), a row for each class (`shared`, as a user gets it), and rows that are kept from call to call (`kept`, as
evaluation and search do). The noise is the same; matrix products of another shape can round otherwise, and turn a token.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.pipelines.first_step import FirstStepCache


def draw(
    pipe: AutoNATPipeline, steps: int, batch_size: int, way: str, kept: FirstStepCache, seed: int = 0
) -> torch.Tensor:
    """Tokens `[B, N]` of images of all classes in turn."""
    config = pipe.transformer.config
    labels = [i % config.num_classes for i in range(batch_size)]
    options = {"generator": torch.Generator(pipe.device).manual_seed(seed), "output_type": "latent"}
    if way == "own":
        options["latents"] = torch.full((batch_size, config.sample_size**2), config.codebook_size)
    if way != "kept":
        return pipe(labels, steps, **options).images
    with kept.in_use():
        return pipe(labels, steps, **options).images


def turned(tokens: torch.Tensor, others: torch.Tensor) -> dict[str, float]:
    """Shares of images and of tokens that differ."""
    differ = tokens != others
    return {"images": differ.any(1).float().mean().item(), "tokens": differ.float().mean().item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders or Hub ids, of class-conditional pipelines")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--images", type=int, default=1024, help="that are compared, of each case")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", default="first_step.json")
    args = parser.parse_args()
    device, rows = default_device(), []
    for name in args.pipelines:
        for dtype in args.dtypes:
            pipe = load_pipeline(name, device=device, dtype=getattr(torch, dtype))
            pipe.set_progress_bar_config(disable=True)
            for steps in args.steps:
                for batch_size in args.batch_sizes:
                    kept, ways = FirstStepCache(), ("own", "shared", "kept")
                    drawn = {
                        way: torch.cat([draw(pipe, steps, batch_size, way, kept, seed)
                                        for seed in range(-(-args.images // batch_size))])
                        for way in ways
                    }  # fmt: skip
                    runs = {way: partial(draw, pipe, steps, batch_size, way, kept) for way in ways}
                    taken = interleaved(runs, args.rounds, description=f"{Path(name).name}, {dtype}, T = {steps}")
                    row = {"pipeline": Path(name).name, "dtype": dtype, "steps": steps, "batch_size": batch_size,
                           "compared": len(drawn["own"]), "seconds": taken}  # fmt: skip
                    for way in ways[1:]:
                        row[way] = {"turned": turned(drawn["own"], drawn[way])}
                        times = [own / other for own, other in zip(taken["own"], taken[way])]
                        row[way]["times_as_fast"], row[way]["spread"] = median_and_spread(times)
                        print(f"{row['pipeline']}, {dtype}, T = {steps}, batch {batch_size}: {way:6}",
                              f"{row[way]['times_as_fast']:.2f} times as fast;", "of {:,} images {:.2%} and of tokens {:.3%}"
                              .format(len(drawn["own"]), *row[way]["turned"].values()), "differ")  # fmt: skip
                    rows.append(row)
                    write_json(args.output, {"rows": rows, "device": device, **made_with()})  # fmt: skip


if __name__ == "__main__":
    main()
