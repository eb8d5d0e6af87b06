"""What several commands read from the command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..command_line import number, positive


HEURISTICS = ("cosine", "enat")  # of AutoNAT's paper and of ENAT's, by their constructors' names


def add_generation_arguments(parser: argparse._ActionsContainer) -> None:
    """How images are generated."""
    parser.add_argument("--num-inference-steps", type=positive, help="default: the longest stored strategy's")
    parser.add_argument(
        "--strategy", help="a strategy file, or a search's scheduler_config.json, instead of a stored one"
    )
    parser.add_argument(
        "--heuristic", choices=HEURISTICS, help="a hand-made strategy, of any number of steps, instead"
    )
    parser.add_argument(
        "--remasking-temperature", type=number(0), metavar="LAMBDA", help="of --heuristic; default: as in its paper"
    )
    parser.add_argument(
        "--guidance-scale", type=float, default=1.0, help="multiplies the strategy's scales, also a --heuristic's"
    )
    parser.add_argument("--seed", type=int, default=0, help="of noise, and of classes that are drawn")


def add_text_encoder_argument(parser: argparse._ActionsContainer) -> None:
    """For pipelines that are saved without the text encoder they were trained with."""
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="folder or Hub id, of a pipeline that draws from text and is stored without",
    )


def chosen_strategy(args: argparse.Namespace, pipeline: Any) -> Any:
    """The strategy that is given by `--strategy` or `--heuristic`; None where the pipeline's own is to be used.

    Raises:
        ValueError: both are given, or the pipeline has none of its own for so many steps; says what to add.
    """
    from ..strategies import GenerationStrategy
    from ..strategy_files import read_strategy

    steps, stored = args.num_inference_steps, pipeline.scheduler.stored_strategies
    if args.strategy and args.heuristic:
        raise ValueError("--strategy and --heuristic are two strategies: give one.")
    if args.remasking_temperature is not None and not args.heuristic:
        raise ValueError("--remasking-temperature is of a heuristic: give --heuristic cosine too.")
    if args.strategy:
        return read_strategy(args.strategy, steps)
    if args.heuristic:
        settings = {} if args.remasking_temperature is None else {"remasking_temperature": args.remasking_temperature}
        return getattr(GenerationStrategy, args.heuristic)(steps or max(stored, default=8), **settings)
    if steps and stored and steps not in stored and getattr(pipeline, "policy", None) is None:
        heuristics = pipeline.scheduler.strategy_class is GenerationStrategy
        raise ValueError(
            f"{args.pipeline} has strategies only for {', '.join(map(str, sorted(stored)))} steps, not for {steps}: "
            f"add {'--heuristic cosine (or enat), or ' if heuristics else ''}--strategy FILE."
        )
    return None


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
