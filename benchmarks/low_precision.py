#!/usr/bin/env python
r"""What low precision and other runtimes do to a pipeline's images: tokens that stay, and what a judge says.

    python benchmarks/low_precision.py model_cards/autonat-fashion-mnist model_cards/enat-fashion-mnist \
        --judge model_cards/fashion-mnist-classifier \
        --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz --output benchmarks/results/low_precision.json

Every way draws the same images from the same noise; torch in float32 is the first of them. `tokens` is the share that is as there,
`images` that of images with no other token; `decoding` is how far, in grey levels of 255, pixels are from those that float32 decodes
from the same tokens. Distance and the share of images that are taken for the class asked for are the judge's.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from generate import OPTIONS
from timing import made_with
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import load_pipeline
from diffusers_autonat.metrics import FrechetDistance, load_extractor, load_reference
from diffusers_autonat.metrics.noise import image_generators
from diffusers_autonat.provenance import pipeline_hash


def in_bfloat16(pipe: AutoNATPipeline) -> AutoNATPipeline:
    return load_pipeline(pipe.name_or_path, dtype=torch.bfloat16)


WAYS: dict[str, Callable[[AutoNATPipeline], AutoNATPipeline]] = {
    "float32": lambda pipe: pipe,
    "bfloat16": in_bfloat16,
    "fp8 storage": lambda pipe: OPTIONS["fp8 storage"](in_bfloat16(pipe)),
    "openvino, bfloat16": partial(OPTIONS["openvino"], dtype=torch.bfloat16),
    **{name: OPTIONS[name] for name in ("int8, torch", "onnx", "onnx, int8", "openvino", "openvino, int8",
                                        "openvino, int8 with decoder")},
}  # fmt: skip


@torch.no_grad()
def draw(pipe: AutoNATPipeline, args) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `[N, n]` of images of all classes in turn, and images `[N, C, H, W]` in [0, 1]."""
    pipe.set_progress_bar_config(disable=True)
    tokens, images = [], []
    for rows in torch.arange(args.images).split(args.batch_size):
        labels = (rows % pipe.transformer.config.num_classes).tolist()
        generators = image_generators(rows, args.seed)
        tokens.append(pipe(labels, args.steps, generator=generators, output_type="latent").images)
        images.append(pipe.decode_latents(tokens[-1]).float())
    return torch.cat(tokens), torch.cat(images)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders or Hub ids, of class-conditional pipelines")
    parser.add_argument("--judge", required=True, help="classifier of the same classes")
    parser.add_argument("--reference", required=True, help="file of real images' features by the judge")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--steps", type=int, default=8, help="T of a stored strategy")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", default="low_precision.json")
    args = parser.parse_args()
    judge, rows, pipelines = load_extractor(args.judge), [], {}
    reference = load_reference(args.reference, judge)
    for name in args.pipelines:
        pipe = load_pipeline(name)
        pipelines[name] = pipeline_hash(pipe)
        in_float32 = draw(pipe, args)
        for way in tqdm(args.ways, desc=Path(name).name):
            other = WAYS[way](pipe)
            tokens, images = in_float32 if other is pipe else draw(other, args)
            with torch.no_grad():
                decoded = torch.cat([pipe.decode_latents(some) for some in tokens.split(args.batch_size)])
            features, logits = judge(images)
            distance = FrechetDistance(reference)
            distance.update(features)
            equal = tokens == in_float32[0]
            labels = torch.arange(args.images) % pipe.transformer.config.num_classes
            row = {
                "pipeline": Path(name).name, "way": way, "tokens": equal.float().mean().item(),
                "images": equal.all(1).float().mean().item(), "decoding": (images - decoded).abs().mean().item() * 255,
                **{name: value.item() for name, value in distance.compute().items()},
                "class_consistency": (logits.argmax(-1) == labels).float().mean().item(),
            }  # fmt: skip
            rows.append(row)
            tqdm.write(", ".join(f"{value:.4g}" if isinstance(value, float) else value for value in row.values()))
            write_json(args.output, {
                "rows": rows, "steps": args.steps, "num_images": args.images, "batch_size": args.batch_size, "seed": args.seed,
                "pipelines": pipelines, "judge": judge.identity(), "reference": reference.hash,
                **made_with("onnxruntime", "openvino", "nncf"),
            })  # fmt: skip


if __name__ == "__main__":
    main()
