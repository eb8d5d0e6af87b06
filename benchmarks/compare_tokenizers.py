#!/usr/bin/env python
"""What tokenizers keep of the same images: error, dimensions of the latents, use of the codes, and a picture to look at.

    python benchmarks/compare_tokenizers.py outputs/early/vqvae outputs/late/vqvae --data IMAGES --output benchmarks/results/codes-join-late.json

Dimensions are exp(entropy of the shares of variance along the latents' principal axes): so many there would be, if all held as much.
"""

import argparse
from pathlib import Path

import torch
from diffusers import VQModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import numpy_to_pil
from timing import made_with

from diffusers_autonat.command_line import print_table
from diffusers_autonat.files import write_json
from diffusers_autonat.image_datasets import ImageTransform, load_images, spread_rows
from diffusers_autonat.plots import plot_samples
from diffusers_autonat.provenance import model_hash
from diffusers_autonat.training.vqgan import CodebookUsage, VQAutoencoder


BATCH, SHOWN = 64, 10


@torch.no_grad()
def look(tokenizer: VQModel, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Reconstructions `[N, C, H, W]` in [0, 1], and what there is to say of them."""
    autoencoder, usage = VQAutoencoder(tokenizer), CodebookUsage(tokenizer.config.num_vq_embeddings, "cpu")
    made, vectors = [], []
    for some in images.split(BATCH):
        reconstruction, _, latents, codes = autoencoder(some)
        usage.update(codes)
        made.append(reconstruction.clamp(0, 1))
        vectors.append(latents.movedim(1, -1).flatten(0, -2))  # [B h w, D]
    reconstructions, points = torch.cat(made), torch.cat(vectors)
    variances = torch.linalg.svdvals(points - points.mean(dim=0)).square()
    dimensions = torch.special.entr(variances / variances.sum()).sum().exp().item()
    return reconstructions, {
        "l1": round((reconstructions - images).abs().mean().item(), 4), "dimensions": round(dimensions, 2),
        "perplexity": round(usage.perplexity()), "codes": len(usage.counts),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="+", help="folders or Hub ids of VQModels, of images of one size")
    parser.add_argument("--names", nargs="+", help="of theirs in table and picture; default: the folders they lie in")
    parser.add_argument("--data", required=True, help="images")
    parser.add_argument(
        "--label_column", default="label", help="images are taken of all its classes; 'none' for no classes"
    )
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument(
        "--output", default="tokenizers.json", help="JSON; the picture lies beside it, with the suffix .png"
    )
    args = parser.parse_args()
    names = args.names or [Path(folder).resolve().parent.name for folder in args.tokenizers]
    if len(set(names)) < len(args.tokenizers):
        raise SystemExit(
            f"compare_tokenizers.py: each needs a name of its own, and these are {', '.join(names)}: give --names"
        )
    tokenizers = {name: VQModel.from_pretrained(folder).eval() for name, folder in zip(names, args.tokenizers)}
    first = next(iter(tokenizers.values()))
    label_column = None if args.label_column == "none" else args.label_column
    data = load_images(train_data_dir=args.data, split="train", label_column=label_column)
    data = data.select(spread_rows(data, label_column, args.num_images))
    data.set_transform(ImageTransform(first.config.sample_size, first.config.in_channels, "image", None))
    images = torch.stack(data[:]["pixel_values"])

    rows, shown = [], {"images": images}
    for name, tokenizer in tokenizers.items():
        shown[name], values = look(tokenizer, images)
        rows.append({"tokenizer": name, **values, "hash": model_hash(tokenizer)})
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    write_json(args.output, {"rows": rows, "num_images": len(images), **made_with()})
    groups = {
        "images, and what is left of them in tokens": [
            numpy_to_pil(VaeImageProcessor.pt_to_numpy(those[:SHOWN])) for those in shown.values()
        ]
    }
    plot_samples(groups, list(shown), f"{args.output.removesuffix('.json')}.png")


if __name__ == "__main__":
    main()
