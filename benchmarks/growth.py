#!/usr/bin/env python
"""How time for an image grows: with tokens, batch, steps and the size of the model.

    python benchmarks/growth.py --dtype bfloat16 --output benchmarks/results/growth.json

From one case in the middle (`--tokens 256 --batch 1 --steps 8 --model S`), one thing changes at a time. The cases of a curve
take turns; of each the median counts. An exponent is the slope of a line through the logarithms: 1 where twice as much takes
twice as long. Weights are random, every step is guided and every grid has a first step of its own; tokens are made, not decoded.
The picture lies beside the JSON.
"""

import argparse
from functools import partial

import torch
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler, UViTTransformer2DModel
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device
from diffusers_autonat.plots import fit_power, plot_growth


# Width and blocks; S and L are the paper's.
MODELS = {"tiny": (32, 3), "XS": (384, 9), "S": (512, 13), "M": (640, 19), "L": (768, 25)}
CURVES = {
    "tokens": (64, 144, 256, 576, 1024), "batch": (1, 4, 16, 64), "steps": (1, 2, 4, 8, 16), "model": ("XS", "S", "M", "L"),
}  # fmt: skip
LABELS = {"tokens": "tokens", "batch": "images in a batch", "steps": "steps $T$", "model": "million parameters"}
CLASSES = 1000


def build(model: str, tokens: int, dtype: torch.dtype, device: str) -> AutoNATPipeline:
    torch.manual_seed(0)
    width, blocks = MODELS[model]
    heads = 8 if width >= 64 else 4
    with torch.device(device):
        transformer = UViTTransformer2DModel(
            round(tokens**0.5), hidden_size=width, num_layers=blocks, num_attention_heads=heads, num_classes=CLASSES
        )
    pipe = AutoNATPipeline(None, transformer.eval().to(dtype), NATScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: AutoNATPipeline, batch: int, steps: int) -> torch.Tensor:
    strategy = GenerationStrategy.cosine(steps)
    grids = torch.full(
        (batch, pipe.transformer.config.sample_size**2), 1024
    )  # given, so that none shares a first step
    labels = [i % CLASSES for i in range(batch)]
    generator = torch.Generator(pipe.device).manual_seed(0)
    return pipe(labels, strategy=strategy, latents=grids, output_type="latent", generator=generator).images


def curve(axis: str, middle: dict, args, device: str) -> dict:
    """Seconds for an image at each value, and the exponent."""
    values, dtype, cases, sizes, batches = CURVES[axis], getattr(torch, args.dtype), {}, [], []
    pipes: dict[tuple, AutoNATPipeline] = {}
    for value in values:
        case = middle | {axis: value}
        key = case["model"], case["tokens"]
        if key not in pipes:
            pipes[key] = build(*key, dtype, device)
        parameters = pipes[key].transformer.num_parameters() / 1e6
        sizes.append(parameters if axis == "model" else value)
        batches.append(case["batch"])
        cases[str(value)] = partial(draw, pipes[key], case["batch"], case["steps"])
    taken = interleaved(cases, args.rounds, description=axis)
    seconds = [median_and_spread(times)[0] / batch for times, batch in zip(taken.values(), batches)]
    return {"axis": axis, "values": values, "sizes": sizes, "seconds_per_image": seconds,
            "exponent": fit_power(sizes, seconds)[0], "rounds": taken}  # fmt: skip


def ranges_of(row: dict) -> list[tuple[float, float]]:
    """The least and the largest seconds for an image, for each size of a curve."""
    ranges = []
    for cost, seconds in zip(row["seconds_per_image"], row["rounds"].values()):
        scale = cost / median_and_spread(seconds)[0]
        ranges.append((scale * min(seconds), scale * max(seconds)))
    return ranges


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--model", choices=MODELS, default="S", help="in the middle, as are the next three")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--output", default="growth.json", help="JSON; the picture lies beside it, with the suffix .png"
    )
    args = parser.parse_args()
    device, rows = default_device(), []
    middle = {"model": args.model, "tokens": args.tokens, "batch": args.batch, "steps": args.steps}
    for axis in args.axes:
        rows.append(curve(axis, middle, args, device))
        shown = ", ".join(f"{v}: {s:.3f} s" for v, s in zip(CURVES[axis], rows[-1]["seconds_per_image"]))
        print(f"{axis:7} exponent {rows[-1]['exponent']:.2f}: {shown}")
        write_json(args.output, {"rows": rows, "middle": middle, "dtype": args.dtype, "device": device,
                                 **made_with()})  # fmt: skip
    curves = {LABELS[row["axis"]]: (row["sizes"], row["seconds_per_image"]) for row in rows}
    ranges = {LABELS[row["axis"]]: ranges_of(row) for row in rows}
    title = f"AutoNAT-{args.model}, {args.dtype}, {args.tokens} tokens, T = {args.steps}, batch {args.batch}, one of them changed"
    plot_growth(curves, args.output.removesuffix(".json") + ".png", title=title, ranges=ranges)


if __name__ == "__main__":
    main()
