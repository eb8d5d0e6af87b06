"""Sets of images by name: folders of images or IDX files, archives, datasets on disk and on the Hub.

Each becomes a stream of samples, an image (uint8 `[C, H, W]`) with its class or None, or a `datasets.Dataset` for those
who need images by index.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..images import image_to_array


if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IDX_FILES = "*-images-idx3-ubyte.gz"
DATASET_FILES = ("dataset_info.json", "dataset_dict.json")  # of `save_to_disk`: of one split, of several

Sample = tuple[Tensor, "int | None"]


def image_samples(source: str | Path | Dataset, resolution: int | None) -> tuple[str, Iterator[Sample]]:
    """Name and samples of a set of images, which are opened but not yet read.

    Args:
        source: a folder of images, a dataset, or what `open_dataset` takes.
        resolution: side in pixels to resize and crop to; None leaves images as they are.

    Raises:
        ValueError: there are no images by that name; says what is missing.
    """
    if not isinstance(source, (str, Path)):
        return str(source.info.dataset_name or "dataset in memory"), _dataset_samples(source, resolution)
    folder = Path(source)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in (IDX_FILES, *DATASET_FILES)):
        return str(source), _folder_samples(folder, resolution)
    name, dataset = open_dataset(source)
    return name, _dataset_samples(dataset, resolution)


def open_dataset(source: str | Path) -> tuple[str, Dataset]:
    """Name and dataset of a folder of IDX files (the test split), `FOLDER:SPLIT`, a folder written by
    `Dataset.save_to_disk`, a folder of images, or `DATASET:SPLIT` on the Hub.

    Raises:
        ValueError: it is none of them.
    """
    from datasets import load_dataset, load_from_disk

    from ..image_datasets import load_images

    path = Path(source)
    folder, _, split = str(source).rpartition(":")
    if path.is_dir() and any(path.glob(IDX_FILES)):
        folder, split = str(source), "test"
    dataset: Any
    if folder and Path(folder).is_dir():
        dataset = load_images(train_data_dir=folder, split=split, label_column=None)
        return f"{Path(folder).resolve().name}:{split}", dataset
    if (path / "dataset_dict.json").exists():
        splits = ", ".join(json.loads((path / "dataset_dict.json").read_text())["splits"])
        raise ValueError(f"{path} holds several splits ({splits}): name the folder of one of them.")
    if (path / "dataset_info.json").exists():
        return str(source), load_from_disk(str(path))
    if path.is_dir():
        dataset = load_images(train_data_dir=str(path), label_column=None)
        return path.name, dataset
    if not folder:
        raise ValueError(
            f"{source} is no file or folder of images; name a dataset with its split, as in `{source}:test`."
        )
    return str(source), load_dataset(folder, split=split)


def find_columns(dataset: Dataset) -> tuple[str, str | None]:
    """Names of a dataset's first column of images and first column of class labels, None where it has no such.

    Raises:
        ValueError: it has no images.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    columns = dataset.features or {}
    image_column = next((name for name, feature in columns.items() if isinstance(feature, ImageFeature)), None)
    if image_column is None:
        raise ValueError(f"The dataset has no image column, only {', '.join(columns) or 'unknown ones'}.")
    return image_column, next((name for name, feature in columns.items() if isinstance(feature, ClassLabel)), None)


def archive_samples(path: Path) -> Iterator[Sample]:
    """The images of an `.npz` file's `arr_0`, one after another: `np.load` would read gigabytes at once."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            npy = np.lib.format
            old = npy.read_magic(member) == (1, 0)
            read_header = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
            shape, by_columns, dtype = read_header(member)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or by_columns:
                raise ValueError(f"arr_0 must be images, uint8 [N, H, W, 1 or 3], not {dtype} {list(shape)}")
            for _ in range(shape[0]):
                pixels = bytearray(member.read(math.prod(shape[1:])))
                yield torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(shape[1:])).permute(2, 0, 1), None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}.") from error


def _folder_samples(folder: Path, resolution: int | None) -> Iterator[Sample]:
    """Images in the order of their paths; the class is the number of the sub-folder, if all images lie in some."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    classes = sorted({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
    in_classes = all(file.parent != folder for file in files)
    for file in files:
        try:
            with Image.open(file) as image:
                pixels = torch.from_numpy(image_to_array(image, resolution, None))
        except OSError as error:
            raise ValueError(f"{file} cannot be read ({error}): replace it, or take it out of the folder.") from error
        yield pixels, classes.index(file.relative_to(folder).parts[0]) if in_classes else None


def _dataset_samples(dataset: Dataset, resolution: int | None) -> Iterator[Sample]:
    """The images of a dataset, and their classes if it has any."""
    image_column, label_column = find_columns(dataset)
    for row in dataset:
        image = torch.from_numpy(image_to_array(row[image_column], resolution, None))
        label = row[label_column] if label_column else None
        # Unlabelled splits on the Hub say -1.
        yield image, None if label is None or label < 0 else label
