#!/usr/bin/env python
r"""Turn images into a token set: the input of `train autonat`.

    diffusers-autonat train tokenize --train_data_dir /usr/share/datasets/fashion-mnist \
        --vqvae outputs/vqgan/vqvae --resolution 28 --output_dir outputs/tokens

Run again, it continues where it was stopped, and makes again what is damaged. On n machines or GPUs: the same command with `--shard 0/n` ... `--shard n-1/n`.
"""

import argparse
import json
import sys
from dataclasses import asdict

from diffusers_autonat.command_line import Parser, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.commands.scripts import script_name
from diffusers_autonat.loading import default_device, load_vqvae
from diffusers_autonat.training.data import add_data_arguments, images_of
from diffusers_autonat.training.tokenizing import tokenize_dataset
from diffusers_autonat.training.tokens import warn_unreadable


def shard(text: str) -> tuple[int, int]:
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form i/n, for example 0/4") from None
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"{text}: i must be from 0 to n-1")
    return index, count


def main():
    parser = Parser(description=__doc__)
    add_data_arguments(parser, captions=True)
    parser.add_argument("--vqvae", required=True, help="folder or Hub id of a VQModel")
    parser.add_argument("--subfolder", help="of --vqvae, e.g. 'vqvae' in a pipeline repository")
    parser.add_argument(
        "--resolution", type=whole(1, 16384), default=256, help="side that images are scaled and cropped to"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the token set; run again, it goes on")
    parser.add_argument("--no_flips", action="store_true", help="do not add mirrored images")
    parser.add_argument("--shard", type=shard, default=(0, 1), help="write only shard i of n")
    parser.add_argument("--streaming", action="store_true", help="read the dataset as it is used")
    parser.add_argument("--batch_size", type=positive, default=256, help="images that are encoded at once")
    parser.add_argument("--images_per_part", type=positive, default=4096, help="what a kill loses at most")
    args = parser.parse_args()

    vqvae = load_vqvae(args.vqvae, args.subfolder).to(default_device())
    info = tokenize_dataset(
        images_of(args, streaming=args.streaming), vqvae, args.output_dir, args.resolution, args.image_column, args.label_column,
        not args.no_flips, args.shard, args.batch_size, args.images_per_part, caption_column=args.caption_column,
    )  # fmt: skip
    warn_unreadable(info)
    print(json.dumps({**asdict(info), "unreadable": info.unreadable[:10]}, indent=2))
    print(
        f"Tokens saved to {args.output_dir}: {script_name('train_autonat')} takes them as --train_data_dir {args.output_dir}.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
