"""Sets of images by name: folders of images or IDX files, archives, datasets on disk and on the Hub.

Each becomes a stream of samples, an image (uint8 `[C, H, W]`) with its class or None, or a `datasets.Dataset` for those
who need images by index.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..images import UnreadableImage, UnreadableImages, image_to_array


if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IDX_FILES = "*-images-idx3-ubyte.gz"
DATASET_FILES = ("dataset_info.json", "dataset_dict.json")  # of `save_to_disk`: of one split, of several

Sample = tuple[Tensor, "int | None"]


def image_samples(source: str | Path | Dataset, resolution: int | None) -> tuple[str, Iterator[Sample]]:
    """Name and samples of a set of images, which are opened but not yet read.

    Args:
        source: a folder of images, a dataset, or what `open_dataset` takes.
        resolution: side in pixels to resize and crop to; None leaves images as they are.

    Images that cannot be read are left out, with a warning at the end that counts and names them.

    Raises:
        ValueError: there are no images by that name; says what is missing. At the end of the samples: half or more of
            the images cannot be read.
    """
    if not isinstance(source, (str, Path)):
        name = str(source.info.dataset_name or "dataset in memory")
        return name, _dataset_samples(name, source, resolution)
    folder = Path(source)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in (IDX_FILES, *DATASET_FILES)):
        return str(source), _folder_samples(folder, resolution)
    name, dataset = open_dataset(source)
    return name, _dataset_samples(name, dataset, resolution)


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
    if (path / "dataset_dict.json").is_file():
        with readable_as(path, "a data set"):
            splits = ", ".join(json.loads((path / "dataset_dict.json").read_text())["splits"])
        raise ValueError(f"{path} holds several splits ({splits}): name the folder of one of them.")
    if (path / "dataset_info.json").is_file():
        with readable_as(path, "a data set"):
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


def find_label_column(dataset: Dataset, class_names: Sequence[str] | None) -> str | None:
    """Name of a dataset's first column of just these classes, in this order, None where it has no such."""
    from datasets import ClassLabel

    columns = (dataset.features or {}).items()
    wanted = list(class_names or ())
    return next((name for name, kind in columns if isinstance(kind, ClassLabel) and kind.names == wanted), None)


def archive_samples(path: Path) -> Iterator[Sample]:
    """The images of an `.npz` file's `arr_0`, one after another: `np.load` would read gigabytes at once.

    Raises:
        ValueError: the file is damaged, or holds no images.
    """
    with readable_as(path, "images"):
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            npy = np.lib.format
            old = npy.read_magic(member) == (1, 0)
            read_header = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
            shape, by_columns, dtype = read_header(member)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or min(shape[1:]) < 1 or by_columns:
                raise ValueError(f"arr_0 must be images, uint8 [N, H, W, 1 or 3], not {dtype} {list(shape)}")
            found, expected = archive.getinfo("arr_0.npy").file_size - member.tell(), math.prod(shape)
            if found != expected:
                raise ValueError(f"arr_0 has {found} bytes, and {list(shape)} are {expected}")
            for _ in range(shape[0]):
                pixels = bytearray(member.read(math.prod(shape[1:])))
                yield torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(shape[1:])).permute(2, 0, 1), None


@contextmanager
def readable_as(path: Path, what: str) -> Iterator[None]:
    """One line that names the file for whatever a damaged one makes the readers in the block raise."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as {what} ({reason}): make it again or fetch it again.") from error


def _folder_samples(folder: Path, resolution: int | None) -> Iterator[Sample]:
    """Images in the order of their paths; the class is the number of the sub-folder, if all images lie in some."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())
    classes = sorted({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
    in_classes = all(file.parent != folder for file in files)
    images = (
        (file, str(file), classes.index(file.relative_to(folder).parts[0]) if in_classes else None) for file in files
    )
    return _samples(str(folder), images, resolution)


def _dataset_samples(name: str, dataset: Dataset, resolution: int | None) -> Iterator[Sample]:
    """The images of a dataset, and their classes if it has any."""
    from ..image_datasets import undecoded

    image_column, label_column = find_columns(dataset)
    # Unlabelled splits on the Hub say -1.
    images = (
        (row[image_column], f"image {index}", label if label is not None and label >= 0 else None)
        for index, row in enumerate(undecoded(dataset, image_column))
        for label in [row[label_column] if label_column else None]
    )
    return _samples(name, images, resolution)


def _samples(source: str, images: Iterable[tuple[Any, str, int | None]], resolution: int | None) -> Iterator[Sample]:
    """Samples of images, each with a name for where it has no path, and its class; see `image_samples`."""
    unreadable = UnreadableImages(source)
    for image, name, label in images:
        path = image.get("path") if isinstance(image, dict) else None
        try:
            pixels = torch.from_numpy(image_to_array(image, resolution, None, path or name))
        except UnreadableImage as error:
            unreadable.add(error)
        else:
            unreadable.num_read += 1
            yield pixels, label
    unreadable.finish()
