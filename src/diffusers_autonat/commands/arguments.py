"""What several commands read from the command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..command_line import positive


def add_generation_arguments(parser: argparse._ActionsContainer) -> None:
    """How images are generated."""
    parser.add_argument("--num-inference-steps", type=positive, help="default: the longest stored strategy's")
    parser.add_argument(
        "--strategy", help="a strategy file, or a search's scheduler_config.json, instead of a stored one"
    )
    parser.add_argument("--guidance-scale", type=float, default=1.0, help="multiplies the strategy's scales")
    parser.add_argument("--seed", type=int, default=0, help="of noise, and of classes that are drawn")


def add_extractor_arguments(parser: argparse._ActionsContainer) -> None:
    """The network that measures images, and how it is called."""
    parser.add_argument("--feature-extractor", default="inception", help="inception or a transformers vision model")
    parser.add_argument("--extractor-weights", help="weights file of inception; downloaded by default")
    parser.add_argument("--images-per-call", type=positive, default=32,
                        help="batch of every call of pipeline and extractor; changes last digits: keep it")  # fmt: skip


def check_writable(path: str) -> None:
    """A ValueError where no file or folder can be made by that name."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written, since {folder} is no folder one can write to: name another.")
