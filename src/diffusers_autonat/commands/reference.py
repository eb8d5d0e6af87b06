"""`diffusers-autonat reference`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..command_line import positive, warning_lines
from .arguments import add_extractor_arguments, check_writable
from .environment import require_metrics


def run(args: argparse.Namespace) -> None:
    """Measure real images once and keep their statistics as a file, to compare generated images with."""
    if Path(args.output).suffix != ".npz":
        raise ValueError(f"--output {args.output}: a reference is an .npz file, name it so.")
    check_writable(args.output)
    require_metrics("reference")
    from ..loading import default_device
    from ..metrics import load_extractor, load_reference, save_reference

    extractor = load_extractor(args.feature_extractor, args.extractor_weights, args.images_per_call)
    extractor.to(default_device())
    with warning_lines():
        reference = load_reference(args.source, extractor, args.feature_rows, True, args.resolution)
    save_reference(reference, args.output)
    print(f"{reference.source}: {reference.num_images} images, hash {reference.hash}\nsaved to {args.output}")


def register(commands) -> None:
    command = commands.add_parser("reference", help="statistics of real images", description=run.__doc__)
    command.add_argument("source", help=".npz, folder of images or IDX files, FOLDER:SPLIT, or DATASET:SPLIT")
    command.add_argument("--output", required=True, metavar="FILE", help="where to, ending in .npz")
    command.add_argument("--resolution", type=positive, help="side that images are cropped to; default: as they are")
    command.add_argument("--feature-rows", type=positive, default=0, metavar="N",
                         help="features of so many images to keep, which kid and prdc need; default: none")  # fmt: skip
    add_extractor_arguments(command)
    command.set_defaults(run=run)
