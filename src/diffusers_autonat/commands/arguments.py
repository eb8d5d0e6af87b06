"""What several commands read from the command line."""

from __future__ import annotations

import argparse

from ..strategies import GenerationStrategy


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def read_strategy(path: str) -> GenerationStrategy:
    """A strategy file: JSON with the four fields, or YAML as the AutoNAT authors write it."""
    return (GenerationStrategy.from_json if path.endswith(".json") else GenerationStrategy.from_yaml)(path)
