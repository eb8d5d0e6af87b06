"""Sets of images from anywhere: Hub datasets, image folders and Fashion-MNIST's IDX files.

Every source becomes a `datasets.Dataset` with an image column and, where there is one, a label column, so that nothing
after this file knows where the images came from.
"""

from __future__ import annotations

import errno
import gzip
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, NamedSplit, load_dataset
from datasets.config import HF_DATASETS_CACHE
from PIL import Image as PILImage

from .images import NAMED, UnreadableImage, UnreadableImages, image_to_array


FASHION_MNIST_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATIENCE = 20  # so many images that cannot be read are passed over before their share counts


def read_idx(path: Path) -> np.ndarray:
    """Read a gzip-compressed IDX file of unsigned bytes, the format of MNIST and Fashion-MNIST.

    Raises:
        ValueError: the file is damaged, or another one.
    """
    try:
        with gzip.open(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08":
                raise ValueError(f"{path} is not an IDX file of unsigned bytes (it starts with {magic!r}).")
            shape = [int.from_bytes(file.read(4), "big") for _ in range(magic[3])]
            size = math.prod(shape)
            data = np.frombuffer(file.read(), dtype=np.uint8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again.") from error
    if data.size != size:
        wrong = "truncated" if data.size < size else "too long"
        raise ValueError(f"{path} is {wrong}: {data.size} values instead of {size}; fetch it again.")
    return data.reshape(shape)


def _idx_files(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Image and label file of a split in a folder of IDX files, or None where the folder holds something else."""
    prefix = {"train": "train", "test": "t10k"}.get(split, split)
    images, labels = (folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    return (images, labels) if images.is_file() and labels.is_file() else None


def _load_idx(files: tuple[Path, Path], image_column: str, label_column: str, split: str) -> Dataset:
    images, labels = read_idx(files[0]), read_idx(files[1])
    if images.ndim != 3 or labels.ndim != 1:
        raise ValueError(
            f"{files[0]} and {files[1]} hold arrays of {images.ndim} and {labels.ndim} dimensions, not 3 and 1."
        )
    if labels.size and labels.max() >= len(FASHION_MNIST_CLASSES):
        raise ValueError(f"{files[1]} holds class {labels.max()}; there are {len(FASHION_MNIST_CLASSES)}, from 0.")
    if len(images) != len(labels):
        raise ValueError(f"{files[0]} has {len(images)} images but {files[1]} has {len(labels)} labels.")
    features = Features({image_column: Image(), label_column: ClassLabel(names=FASHION_MNIST_CLASSES)})
    pictures = [PILImage.fromarray(image) for image in images]
    return Dataset.from_dict(
        {image_column: pictures, label_column: labels.tolist()}, features, split=NamedSplit(split)
    )


def load_images(
    dataset_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    image_column: str = "image",
    label_column: str | None = "label",
    streaming: bool = False,
    max_samples: int | None = None,
    caption_column: str | None = None,
) -> Dataset | IterableDataset:
    """Load images with labels or captions.

    Args:
        dataset_name: a dataset on the Hub, or any name or path that `datasets.load_dataset` takes.
        train_data_dir: a local folder: Fashion-MNIST IDX files, or images sorted into one sub-folder per class.
        split: `train`, `test`, or any split the dataset has.
        image_column: the column of images; `label_column`: the column of classes, or None for unlabelled images.
        streaming: read the dataset as it is used, without downloading it first (Hub datasets only).
        max_samples: keep the first so many images.
        caption_column: the column of captions, a text or a list of texts for each image, where they are wanted.

    Raises:
        ValueError: no source or two sources are named, the folder is empty, or a column does not exist.
    """
    if (dataset_name is None) == (train_data_dir is None):
        raise ValueError("Name one source of images: either --dataset_name or --train_data_dir.")
    if train_data_dir is not None:
        folder = Path(train_data_dir)
        if not folder.is_dir():
            raise ValueError(f"--train_data_dir {train_data_dir} is not a folder.")
        idx = _idx_files(folder, split)
        if idx is not None:
            dataset = _load_idx(idx, image_column, label_column or "label", split)
        else:
            try:
                dataset = load_dataset("imagefolder", data_dir=str(folder), split=split, streaming=streaming)
            except Exception as error:
                for cause in _causes(error):
                    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
                        raise OSError(cause.errno, os.strerror(cause.errno), str(HF_DATASETS_CACHE)) from error
                raise ValueError(f"no {split} images found in {train_data_dir}: {error}") from error
    else:
        dataset = load_dataset(dataset_name, split=split, streaming=streaming)
    if dataset.column_names is not None:
        for column in filter(None, (image_column, label_column, caption_column)):
            if column not in dataset.column_names:
                raise ValueError(
                    f"the dataset has no column {column!r}, it has {dataset.column_names}; name the right one with "
                    f"--image_column, --caption_column or --label_column (--label_column none for unlabelled images)."
                )
    if max_samples is not None:
        dataset = dataset.take(max_samples)
    return dataset


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def label_names(dataset: Dataset | IterableDataset, label_column: str | None) -> list[str] | None:
    """Class names in the order of their ids, or None where labels are absent or carry no names."""
    feature = (dataset.features or {}).get(label_column) if label_column else None
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def undecoded(dataset: Dataset | IterableDataset, image_column: str) -> Any:
    """The same rows with images as `{"bytes": ..., "path": ...}`, for `image_to_array` to read."""
    return dataset.cast_column(image_column, Image(decode=False))


class ImageTransform:
    """A `Dataset.set_transform` function: images to float tensors `[C, H, W]` in [0, 1], as the tokenizers want them.

    Raises:
        UnreadableImage: when called on one; `ReadableImages` passes over it.
    """

    def __init__(self, resolution: int, num_channels: int, image_column: str, label_column: str | None):
        self.resolution, self.num_channels = resolution, num_channels
        self.image_column, self.label_column = image_column, label_column

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        arrays = [image_to_array(image, self.resolution, self.num_channels) for image in batch[self.image_column]]
        pixels = torch.from_numpy(np.stack(arrays)).float().div_(255)
        out: dict[str, Any] = {"pixel_values": list(pixels)}
        if self.label_column is not None and self.label_column in batch:
            out["labels"] = batch[self.label_column]
        return out


class ReadableImages(torch.utils.data.Dataset):
    """
    A data set to train on, seen through a transform; in place of an image that cannot be read comes the next that can.

    The first of those images are warned about by name as they are met, since a training has no end at which to count.

    Args:
        dataset: images; `transform`: what makes rows of them.

    Raises:
        ValueError: when read, if of all images seen so far half or more cannot be read.
    """

    def __init__(self, dataset: Dataset, transform: ImageTransform):
        self.rows, self.transform = undecoded(dataset, transform.image_column), transform
        self.unreadable = UnreadableImages("the training images")
        self.is_unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = self.rows[indices]
        return [
            self._row(index, {key: [column[i]] for key, column in rows.items()}) for i, index in enumerate(indices)
        ]

    def _row(self, index: int, row: dict[str, list[Any]]) -> dict[str, Any]:
        while True:
            try:
                made = self.transform(row)
                self.unreadable.num_read += 1
                return {key: values[0] for key, values in made.items()}
            except UnreadableImage as error:
                self._pass_over(index, error)
            index = (index + 1) % len(self)
            row = self.rows[[index]]

    def _pass_over(self, index: int, error: UnreadableImage) -> None:
        if index not in self.is_unreadable:
            self.is_unreadable.add(index)
            self.unreadable.add(error)
            if self.unreadable.num_unreadable <= NAMED:
                warnings.warn(f"{error}: the next image is taken instead.", stacklevel=2)
        # Of a few, bad ones may come first by chance.
        if self.unreadable.num_unreadable >= min(PATIENCE, len(self)):
            self.unreadable.check()
