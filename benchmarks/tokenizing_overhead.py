#!/usr/bin/env python
r"""What making a token set costs beside the tokenizer: images/s of `tokenize_images.py` over those of the bare encoder.

    python benchmarks/tokenizing_overhead.py --data /usr/share/datasets/fashion-mnist --resolution 28 \
        --pipeline model_cards/autonat-fashion-mnist --output benchmarks/results/tokenizing_overhead.json

The bare encoder is given batches that are already there; the script's function reads, scales and checks the same images and
writes their tokens. Both take turns, so that a busy machine slows both.
"""

import argparse
import tempfile

import torch
from diffusers import VQModel
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat.files import write_json
from diffusers_autonat.image_datasets import ImageTransform, load_images
from diffusers_autonat.loading import default_device
from diffusers_autonat.models.tokenizer import encode_images
from diffusers_autonat.training.tokenizing import tokenize_dataset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or IDX files")
    parser.add_argument("--pipeline", required=True, help="whose tokenizer encodes")
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--num-images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="tokenizing_overhead.json")
    args = parser.parse_args()
    device = default_device()
    vqvae = VQModel.from_pretrained(args.pipeline, subfolder="vqvae").eval().to(device)
    images = load_images(train_data_dir=args.data, max_samples=args.num_images)
    read = images.with_transform(ImageTransform(args.resolution, vqvae.config.in_channels, "image", None))
    batches = torch.stack(read[:]["pixel_values"]).split(args.batch_size)

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            encode_images(vqvae, batch.to(device)).cpu()

    def script() -> None:
        with tempfile.TemporaryDirectory() as folder:
            tokenize_dataset(
                images, vqvae, folder, args.resolution, flips=False, batch_size=args.batch_size, show_progress=False
            )

    taken = interleaved({"bare": bare, "script": script}, args.rounds)
    ratios = [alone / whole for alone, whole in zip(taken["bare"], taken["script"])]
    median, spread = median_and_spread(ratios)
    write_json(args.output, {
        "median_ratio": median, "spread": spread, "ratios": ratios, "seconds": taken, "num_images": len(images),
        "batch_size": args.batch_size, "resolution": args.resolution, "device": device, **made_with("datasets"),
    })  # fmt: skip
    print(f"tokenize_images.py runs at {median:.2f} of the bare encoder's images/s")


if __name__ == "__main__":
    main()
