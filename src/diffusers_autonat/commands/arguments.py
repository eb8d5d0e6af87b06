"""What several commands read from the command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import GenerationStrategy


if TYPE_CHECKING:
    from datasets import Dataset

    from ..metrics import FeatureExtractor, Reference


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def read_strategies(path: str) -> list[GenerationStrategy]:
    """
    All strategies of a file, by number of steps: YAML as the AutoNAT authors write it, JSON with the four fields, or the
    `scheduler_config.json` of a search or a pipeline.

    Raises:
        ValueError: The file holds no strategy, or a wrong one; names the file. OSError: It cannot be read.
    """
    if not path.endswith(".json"):
        return [GenerationStrategy.from_yaml(path)]
    try:
        data = json.loads(Path(path).read_text())
        if not isinstance(data, dict) or "strategies" not in data:
            return [GenerationStrategy.from_dict(data)]
        if not isinstance(data["strategies"] or [], list):
            raise ValueError(f"strategies must be a list of strategies, got {data['strategies']!r}.")
        stored = NATScheduler(strategies=data["strategies"]).stored_strategies
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not stored:
        raise ValueError(f"{path} is the config of a scheduler that stores no strategy.")
    return [stored[steps] for steps in sorted(stored)]


def read_strategy(path: str, num_inference_steps: int | None = None) -> GenerationStrategy:
    """
    The strategy of a file, see `read_strategies`; of several the one with `num_inference_steps` steps.

    Raises:
        ValueError: As `read_strategies`; or none has that many steps, or there are several and no number is given.
    """
    strategies = {strategy.num_inference_steps: strategy for strategy in read_strategies(path)}
    if num_inference_steps is None and len(strategies) > 1:
        raise ValueError(
            f"{path} holds strategies for {list(strategies)} steps: choose one with --num-inference-steps."
        )
    if num_inference_steps is not None and num_inference_steps not in strategies:
        raise ValueError(f"{path} holds no strategy for {num_inference_steps} steps, only for {list(strategies)}.")
    return strategies[num_inference_steps or next(iter(strategies))]


def local_dataset(source: str) -> tuple[str, Dataset | None]:
    """Name and images of `FOLDER:SPLIT`, or of a folder of IDX files (its test split); None for other sources."""
    from ..training.data import load_images

    folder, _, split = source.rpartition(":")
    if Path(source).is_dir() and any(Path(source).glob("*-images-idx3-ubyte.gz")):
        folder, split = source, "test"
    if not folder or not Path(folder).is_dir():
        return source, None
    dataset: Any = load_images(train_data_dir=folder, split=split, label_column=None)
    return f"{Path(folder).resolve().name}:{split}", dataset


def read_reference(
    source: str,
    extractor: FeatureExtractor,
    feature_rows: int = 0,
    progress: bool = False,
    resolution: int | None = None,
) -> Reference:
    """`metrics.load_reference` of a source as it is typed: what that reads, `FOLDER:SPLIT`, and folders of IDX files."""
    from ..metrics import load_reference

    name, dataset = local_dataset(source)
    images = source if dataset is None else dataset
    reference = load_reference(images, extractor, feature_rows, progress, resolution)
    return reference if dataset is None else replace(reference, source=name)
