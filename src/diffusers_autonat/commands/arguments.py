"""What several commands read from the command line."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

    from ..metrics import FeatureExtractor, Reference


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


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
