"""Sets of images from anywhere: Hub datasets, image folders and Fashion-MNIST's IDX files.

Every source becomes a `datasets.Dataset` with an image column and, where there is one, a label column, so that nothing
after this file knows where the images came from.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, load_dataset
from PIL import Image as PILImage

from .images import image_to_array


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


def read_idx(path: Path) -> np.ndarray:
    """Read a gzip-compressed IDX file of unsigned bytes, the format of MNIST and Fashion-MNIST."""
    with gzip.open(path, "rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:3] != b"\x00\x00\x08":
            raise ValueError(f"{path} is not an IDX file of unsigned bytes (it starts with {magic!r}).")
        shape = tuple(np.frombuffer(file.read(4 * magic[3]), dtype=">u4").astype(int))
        data = np.frombuffer(file.read(), dtype=np.uint8)
    if data.size != np.prod(shape):
        raise ValueError(f"{path} is truncated: {data.size} values instead of {int(np.prod(shape))}; fetch it again.")
    return data.reshape(shape)


def _idx_files(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Image and label file of a split in a folder of IDX files, or None where the folder holds something else."""
    prefix = {"train": "train", "test": "t10k"}.get(split, split)
    images, labels = (folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    return (images, labels) if images.exists() and labels.exists() else None


def _load_idx(files: tuple[Path, Path], image_column: str, label_column: str) -> Dataset:
    images, labels = read_idx(files[0]), read_idx(files[1])
    if len(images) != len(labels):
        raise ValueError(f"{files[0]} has {len(images)} images but {files[1]} has {len(labels)} labels.")
    features = Features({image_column: Image(), label_column: ClassLabel(names=FASHION_MNIST_CLASSES)})
    pictures = [PILImage.fromarray(image) for image in images]
    return Dataset.from_dict({image_column: pictures, label_column: labels.tolist()}, features=features)


def load_images(
    dataset_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    image_column: str = "image",
    label_column: str | None = "label",
    streaming: bool = False,
    max_samples: int | None = None,
) -> Dataset | IterableDataset:
    """Load images and labels.

    Args:
        dataset_name: a dataset on the Hub, or any name or path that `datasets.load_dataset` takes.
        train_data_dir: a local folder: Fashion-MNIST IDX files, or images sorted into one sub-folder per class.
        split: `train`, `test`, or any split the dataset has.
        image_column: the column of images; `label_column`: the column of classes, or None for unlabelled images.
        streaming: read the dataset as it is used, without downloading it first (Hub datasets only).
        max_samples: keep the first so many images.

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
            dataset = _load_idx(idx, image_column, label_column or "label")
        else:
            try:
                dataset = load_dataset("imagefolder", data_dir=str(folder), split=split, streaming=streaming)
            except Exception as error:
                raise ValueError(f"no {split} images found in {train_data_dir}: {error}") from error
    else:
        dataset = load_dataset(dataset_name, split=split, streaming=streaming)
    if dataset.column_names is not None:
        for column in filter(None, (image_column, label_column)):
            if column not in dataset.column_names:
                raise ValueError(
                    f"the dataset has no column {column!r}, it has {dataset.column_names}; name the right one with "
                    f"--image_column or --label_column (--label_column none for unlabelled images)."
                )
    if max_samples is not None:
        dataset = dataset.take(max_samples)
    return dataset


def label_names(dataset: Dataset | IterableDataset, label_column: str | None) -> list[str] | None:
    """Class names in the order of their ids, or None where labels are absent or carry no names."""
    feature = (dataset.features or {}).get(label_column) if label_column else None
    return list(feature.names) if isinstance(feature, ClassLabel) else None


class ImageTransform:
    """A `Dataset.set_transform` function: images to float tensors `[C, H, W]` in [0, 1], as the tokenizers want them."""

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
