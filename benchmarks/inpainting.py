#!/usr/bin/env python
"""Real images with a hole, filled again: is the class still recognised, and how does it look?

    python benchmarks/inpainting.py model_cards/autonat-fashion-mnist model_cards/enat-fashion-mnist \
        --judge model_cards/fashion-mnist-classifier --data /usr/share/datasets/fashion-mnist \
        --output benchmarks/results/inpainting.json

The judge, a classifier trained on real images, looks at the test images themselves, at their reconstructions, at the images with
a black hole, and at what a pipeline made of these with the image's class and, to edit, with the next class. `same` is the share
that it takes for what it took the original for. The strip beside the JSON shows an image of each class: as it is, with the hole,
and filled by the first pipeline, with its class twice and with the next one.
"""

import argparse
from pathlib import Path

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid, numpy_to_pil
from PIL import Image, ImageOps
from timing import made_with
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATInpaintPipeline
from diffusers_autonat.files import write_json
from diffusers_autonat.image_datasets import ImageTransform, load_images
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import load_extractor
from diffusers_autonat.models.tokenizer import encode_images
from diffusers_autonat.provenance import pipeline_hash


# Top, bottom, left and right of the hole, as shares of the side.
HOLES = {"middle": (2 / 7, 5 / 7, 2 / 7, 5 / 7), "lower half": (3 / 7, 1, 0, 1), "right half": (0, 1, 3 / 7, 1)}
ENLARGE, MARGIN, GREY, BATCH = 3, 2, 0.35, 100


def mask_of(hole: str, side: int) -> torch.Tensor:
    """`[1, 1, H, W]`, 1 in the hole."""
    top, bottom, left, right = (round(share * side) for share in HOLES[hole])
    mask = torch.zeros(1, 1, side, side)
    mask[..., top:bottom, left:right] = 1
    return mask


def fill(
    edit: AutoNATInpaintPipeline, images: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, steps: int, seed: int
):
    """Filled images `[N, C, H, W]` in [0, 1]; pixels outside the hole stay."""
    generator, filled = torch.Generator().manual_seed(seed), []
    for rows in tqdm(torch.arange(len(images)).split(BATCH), desc=f"T = {steps}", leave=False):
        filled.append(edit(
            images[rows], mask, labels[rows].tolist(), keep_unmasked=True, num_inference_steps=steps, generator=generator,
            output_type="pt",
        ).images.cpu())  # fmt: skip
    return torch.cat(filled)


def as_pictures(images: torch.Tensor) -> list[Image.Image]:
    pictures = numpy_to_pil(VaeImageProcessor.pt_to_numpy(images.clamp(0, 1)))
    scaled = (ImageOps.scale(picture, ENLARGE, Image.Resampling.NEAREST) for picture in pictures)
    return [ImageOps.expand(picture, MARGIN, "white") for picture in scaled]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders or Hub ids of class-conditional pipelines")
    parser.add_argument("--judge", required=True, help="classifier of the same classes")
    parser.add_argument("--data", required=True, help="images with labels; their split `test` is taken")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", default="inpainting.json", help="JSON; the strip lies beside it, with the suffix .png"
    )
    args = parser.parse_args()
    device, judge = default_device(), load_extractor(args.judge)
    pipelines = {Path(name).name: load_pipeline(name, device=device) for name in args.pipelines}
    test = load_images(train_data_dir=args.data, split="test")
    names = test.features["label"].names
    first = next(iter(pipelines.values()))
    side = first.transformer.config.sample_size * first.vae_scale_factor
    test = test.select(range(min(args.num_images, len(test))))
    test.set_transform(ImageTransform(side, first.vqvae.config.in_channels, "image", "label"))
    images, labels = torch.stack(test[:]["pixel_values"]), torch.tensor(test[:]["labels"])

    taken_for = {"original": judge(images)[1].argmax(-1)}
    rows: list[dict] = []

    def add(seen: torch.Tensor, asked: torch.Tensor, **of) -> None:
        predicted = judge(seen)[1].argmax(-1)
        recognised, same = ((predicted == other).float().mean().item() for other in (asked, taken_for["original"]))
        rows.append({**of, "recognised": recognised, "same": same})
        print(
            ", ".join(f"{value}" for value in of.values()), f"recognised {recognised:.1%}, same {same:.1%}", flush=True
        )

    add(images, labels, images="original")
    for name, pipe in pipelines.items():
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            made = [
                pipe.decode_latents(encode_images(pipe.vqvae, some.to(device))).cpu() for some in images.split(BATCH)
            ]
        add(torch.cat(made), labels, images="reconstructed", pipeline=name)
    others = (labels + 1) % len(names)
    for hole in HOLES:
        mask = mask_of(hole, side)
        add(images * (1 - mask), labels, images="with a black hole", hole=hole)
        for name, pipe in pipelines.items():
            edit = AutoNATInpaintPipeline.from_pipe(pipe)
            edit.set_progress_bar_config(disable=True)
            for steps in args.steps:
                for kind, asked in (("filled", labels), ("filled as the next class", others)):
                    filled = fill(edit, images, mask, asked, steps, args.seed)
                    add(filled, asked, images=kind, hole=hole, pipeline=name, steps=steps)
    write_json(args.output, {
        "rows": rows, "num_images": len(images), "seed": args.seed, "holes": HOLES, "judge": judge.identity(),
        "pipelines": {name: pipeline_hash(pipe) for name, pipe in pipelines.items()},
        **made_with(),
    })  # fmt: skip

    columns = torch.stack(
        [(labels == label).nonzero()[0, 0] for label in range(len(names)) if (labels == label).any()]
    )
    edit, strip = AutoNATInpaintPipeline.from_pipe(first), []
    edit.set_progress_bar_config(disable=True)
    some, own, steps = images[columns], labels[columns], args.steps[-1]
    strip += as_pictures(some)
    for hole in HOLES:
        mask = mask_of(hole, side)
        strip += as_pictures(some * (1 - mask) + GREY * mask)
        for asked, seed in ((own, args.seed), (own, args.seed + 1), ((own + 1) % len(names), args.seed)):
            strip += as_pictures(fill(edit, some, mask, asked, steps, seed))
    make_image_grid(strip, rows=len(strip) // len(columns), cols=len(columns)).save(
        f"{args.output.removesuffix('.json')}.png"
    )


if __name__ == "__main__":
    main()
