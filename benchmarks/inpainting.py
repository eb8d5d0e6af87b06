#!/usr/bin/env python
r"""Real images with a hole, filled again: is what they show still recognised, and how does it look?

    python benchmarks/inpainting.py model_cards/autonat-fashion-mnist model_cards/enat-fashion-mnist \
        --judge model_cards/fashion-mnist-classifier --data /usr/share/datasets/fashion-mnist \
        --output benchmarks/results/inpainting.json

The judge was trained on real images: a classifier for pipelines of classes, a network that reads captions (`r_precision`) for those
of text. It looks at the images themselves, at their reconstructions, at the images with a black hole, and at what a pipeline
made of these when it was asked for what they show and, to edit, for what the next class or image shows. The picture beside the JSON
has some of them: as they are, with each hole, and filled by the first pipeline, twice with their own class or caption and
once with the next.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import numpy_to_pil
from PIL import Image
from timing import made_with
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATInpaintPipeline
from diffusers_autonat.files import write_json
from diffusers_autonat.image_datasets import ImageTransform, load_images
from diffusers_autonat.loading import default_device, load_pipeline, load_text_encoder
from diffusers_autonat.metrics import TextTower, load_extractor, r_precision
from diffusers_autonat.metrics.captions import find_caption_column
from diffusers_autonat.models.tokenizer import encode_images
from diffusers_autonat.pipelines.prompts import takes_prompts
from diffusers_autonat.plots import plot_samples
from diffusers_autonat.provenance import pipeline_hash


# Top, bottom, left and right of the hole, as shares of the side.
HOLES = {"middle": (2 / 7, 5 / 7, 2 / 7, 5 / 7), "lower half": (3 / 7, 1, 0, 1), "right half": (0, 1, 3 / 7, 1)}
GREY, BATCH, SHOWN = 0.35, 100, 8


class Classes:
    """The class that each image shows, and whether a classifier sees it."""

    argument, kind, label_column = "class_labels", "class", "label"

    def __init__(self, judge: str, rows: Any, text_encoder: str | None):
        self.judge, self.names = load_extractor(judge).to(default_device()), rows.features["label"].names
        self.own: list[int] = rows["label"][:]
        self.next = [(label + 1) % len(self.names) for label in self.own]
        self.shown = [self.own.index(label) for label in sorted(set(self.own))]  # one of each
        self.shown_names = [self.names[self.own[row]] for row in self.shown]

    def recognised(self, images: torch.Tensor, asked: Sequence[int]) -> float:
        return (self.judge(images)[1].argmax(-1) == torch.tensor(asked)).float().mean().item()


class Captions:
    """The caption of each image, and whether it is the nearest of 100."""

    argument, kind, label_column = "prompt", "caption", None

    def __init__(self, judge: str, rows: Any, text_encoder: str | None):
        self.judge = load_extractor(judge).to(default_device())
        self.text_tower = TextTower(judge, *(load_text_encoder(text_encoder) if text_encoder else ()))
        self.own: list[str] = rows[find_caption_column(rows)][:]
        self.next = self.own[1:] + self.own[:1]
        self.shown = list(range(0, len(self.own), -(-len(self.own) // SHOWN)))
        self.shown_names = [self.own[row].replace(", ", "\n", 1) for row in self.shown]

    def recognised(self, images: torch.Tensor, asked: Sequence[str]) -> float:
        features = self.text_tower.embed_images(self.judge(images)[0])
        return r_precision(features, self.text_tower.embed_texts(list(asked))).item()


def mask_of(hole: str, side: int) -> torch.Tensor:
    """`[1, 1, H, W]`, 1 in the hole."""
    top, bottom, left, right = (round(share * side) for share in HOLES[hole])
    mask = torch.zeros(1, 1, side, side)
    mask[..., top:bottom, left:right] = 1
    return mask


def fill(edit: AutoNATInpaintPipeline, images: torch.Tensor, mask: torch.Tensor, asked: dict, steps: int, seed: int):
    """Filled images `[N, C, H, W]` in [0, 1]; pixels outside the hole stay. `asked`: an argument of the call, one value for each."""
    generator, filled = torch.Generator().manual_seed(seed), []
    for rows in tqdm(torch.arange(len(images)).split(BATCH), desc=f"T = {steps}", leave=False):
        some = {name: [values[i] for i in rows.tolist()] for name, values in asked.items()}
        filled.append(edit(
            images[rows], mask, keep_unmasked=True, num_inference_steps=steps, generator=generator, output_type="pt", **some
        ).images.cpu())  # fmt: skip
    return torch.cat(filled)


def editing(pipe) -> AutoNATInpaintPipeline:
    edit = AutoNATInpaintPipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    return edit


def draw(
    edit: AutoNATInpaintPipeline, images: torch.Tensor, content: Classes | Captions, steps: int, seed: int, path: str
):
    """What is done to the images that are shown, a row for each."""

    def pictures(images: torch.Tensor) -> list[Image.Image]:
        return numpy_to_pil(VaeImageProcessor.pt_to_numpy(images.clamp(0, 1)))

    some = images[content.shown]
    own, following = ([values[row] for row in content.shown] for values in (content.own, content.next))
    groups = {"real": [[picture] for picture in pictures(some)]}
    for hole in HOLES:
        mask = mask_of(hole, some.shape[-1])
        columns = [some * (1 - mask) + GREY * mask]
        for asked, noise in ((own, seed), (own, seed + 1), (following, seed)):
            columns.append(fill(edit, some, mask, {content.argument: asked}, steps, noise))
        groups[hole] = [list(row) for row in zip(*map(pictures, columns))]
    title = f"{steps} steps; of each hole: what is given, filled twice, filled as the next {content.kind}"
    plot_samples(groups, content.shown_names, path, title=title)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="folders or Hub ids of pipelines, of classes or of text")
    parser.add_argument(
        "--judge", required=True, help="classifier of the same classes, or a network that reads captions"
    )
    parser.add_argument("--data", required=True, help="images with labels or captions")
    parser.add_argument("--split", default="test", help="of the data")
    parser.add_argument("--text-encoder", help="of pipelines and a judge that are stored without theirs")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", default="inpainting.json", help="JSON; the picture lies beside it, with the suffix .png"
    )
    args = parser.parse_args()
    device = default_device()
    names = [Path(name).resolve().name for name in args.pipelines]
    if len(set(names)) < len(names):
        raise SystemExit(
            f"inpainting.py: rows are named after folders, and these are not different: {', '.join(names)}"
        )
    pipelines = {
        name: load_pipeline(folder, device=device, text_encoder=args.text_encoder)
        for name, folder in zip(names, args.pipelines)
    }
    first = next(iter(pipelines.values()))
    read = Captions if takes_prompts(first) else Classes
    data = load_images(train_data_dir=args.data, split=args.split, label_column=read.label_column)
    data = data.select(range(min(args.num_images, len(data))))
    content = read(args.judge, data, args.text_encoder)
    side = first.transformer.config.sample_size * first.vae_scale_factor
    data.set_transform(ImageTransform(side, first.vqvae.config.in_channels, "image", None))
    images = torch.stack(data[:]["pixel_values"])
    rows: list[dict] = []

    def add(seen: torch.Tensor, asked: Sequence, **of) -> None:
        rows.append({**of, "recognised": round(content.recognised(seen, asked), 4)})
        print(", ".join(map(str, of.values())), f"recognised {rows[-1]['recognised']:.1%}", flush=True)

    add(images, content.own, images="original")
    for name, pipe in pipelines.items():
        with torch.no_grad():
            made = [
                pipe.decode_latents(encode_images(pipe.vqvae, some.to(device))).cpu() for some in images.split(BATCH)
            ]
        add(torch.cat(made), content.own, images="reconstructed", pipeline=name)
    for hole in HOLES:
        mask = mask_of(hole, side)
        add(images * (1 - mask), content.own, images="with a black hole", hole=hole)
        for name, pipe in pipelines.items():
            for steps in args.steps:
                for kind, asked in (("filled", content.own), (f"filled as the next {content.kind}", content.next)):
                    filled = fill(editing(pipe), images, mask, {content.argument: asked}, steps, args.seed)
                    add(filled, asked, images=kind, hole=hole, pipeline=name, steps=steps)
    write_json(args.output, {
        "rows": rows, "num_images": len(images), "seed": args.seed, "holes": HOLES, "judge": content.judge.identity(),
        "pipelines": {name: pipeline_hash(pipe) for name, pipe in pipelines.items()},
        **made_with(),
    })  # fmt: skip
    picture = f"{args.output.removesuffix('.json')}.png"
    draw(editing(first), images, content, args.steps[-1], args.seed, picture)


if __name__ == "__main__":
    main()
