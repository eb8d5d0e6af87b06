"""Sets of images from anywhere: Hub datasets, folders of images, of Parquet files or of webdataset shards, IDX files.

Every source becomes a `datasets.Dataset` with an image column and, where there is one, a label column of class ids, so that
nothing after this file knows where the images came from.
"""

from __future__ import annotations

import errno
import glob
import gzip
import math
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, NamedSplit, Value, load_dataset
from datasets.config import HF_DATASETS_CACHE
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
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


IMAGE, LABEL = "image", "label"  # what columns are called where nothing is said
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# As `datasets` tells splits by the names of folders: one of these words, alone or set off.
SPLIT = re.compile(
    r"(?:.*[-._ 0-9])?(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|testing|eval|evaluation))"
    r"(?:[-._ 0-9].*)?"
)
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
    image_column: str = IMAGE,
    label_column: str | None = LABEL,
    streaming: bool = False,
    max_samples: int | None = None,
    caption_column: str | None = None,
    class_names: list[str] | None = None,
) -> Dataset | IterableDataset:
    """Load images with labels or captions.

    Args:
        dataset_name: a dataset on the Hub, or any name or path that `datasets.load_dataset` takes.
        train_data_dir: a local folder: Fashion-MNIST IDX files; images, sorted into one sub-folder per class, or flat, or with
            a metadata.csv, .jsonl or .parquet beside them whose `file_name` names them; Parquet files; webdataset's .tar files.
            Sub-folders that are all named after splits (`train`, `test`) are splits.
        split: `train`, `test`, or any split the dataset has.
        image_column: the column of images; where there is no `image`, the only one that holds images is taken for it.
        label_column: the column of classes, or None for unlabelled images; webdataset's `cls` is taken for `label`, and a folder
            of images with nothing beside them has none. Texts become classes in alphabetical order, see `with_classes`.
        streaming: read the dataset as it is used, without downloading it first.
        max_samples: keep the first so many images.
        caption_column: the column of captions, a text or a list of texts for each image, where they are wanted.
        class_names: of another split, whose ids texts and numbers get.

    Raises:
        ValueError: no source or two sources are named, the folder is empty, or a column does not exist.
    """
    if (dataset_name is None) == (train_data_dir is None):
        raise ValueError("Name one source of images: either --dataset_name or --train_data_dir.")
    if train_data_dir is not None:
        dataset = _load_folder(train_data_dir, split, image_column, label_column, streaming)
    else:
        dataset = load_dataset(dataset_name, split=split, streaming=streaming)
    dataset = _usual_names(dataset, image_column, label_column)
    if label_column == LABEL and train_data_dir is not None:
        # Images with nothing said about them are of one kind.
        label_column = None if set(dataset.column_names or [LABEL]) <= {image_column, caption_column} else LABEL
    if dataset.column_names is not None:
        for column in filter(None, (image_column, label_column, caption_column)):
            if column not in dataset.column_names:
                raise ValueError(
                    f"the dataset has no column {column!r}, it has {dataset.column_names}; name the right one with "
                    f"--image_column, --caption_column or --label_column (--label_column none for unlabelled images)."
                )
    if label_column is not None:
        dataset = with_classes(dataset, label_column, class_names)  # before any is left out: a class has one id
    if max_samples is not None:
        dataset = dataset.take(max_samples)
    return dataset


def _load_folder(
    name: str, split: str, image_column: str, label_column: str | None, streaming: bool
) -> Dataset | IterableDataset:
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"--train_data_dir {name} is not a folder: name one with images.")
    idx = _idx_files(folder, split)
    if idx is not None:
        return _load_idx(idx, image_column, label_column or LABEL, split)
    try:
        if _holds_shards(folder):
            return load_dataset(str(folder), split=split, streaming=streaming)
        return load_dataset(
            "imagefolder", data_dir=name, data_files=_files_of_splits(folder), split=split, streaming=streaming
        )
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError) and cause.errno in DISK_FULL:
                raise OSError(cause.errno, os.strerror(cause.errno), str(HF_DATASETS_CACHE)) from error
        raise ValueError(f"no {split} images found in {name}: {error}") from error


def _holds_shards(folder: Path) -> bool:
    """Whether images lie in Parquet or .tar files: there are some, and no images beside them."""
    files = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    shards = any(path.suffix in (".parquet", ".tar") and path.stem != "metadata" for path in files)
    return shards and not any(path.suffix.lower() in ImageFolder.EXTENSIONS for path in files)


def _files_of_splits(folder: Path, above: str = "") -> dict[str, list[str]]:
    """
    Patterns of the files of each split: sub-folders that are all named after splits are splits, else everything is `train`.

    `datasets` by itself would go by every name: an image "train-01.png" would be all that is left of a folder, and a class
    "train" of a split `test` would be trained on.
    """
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    splits = [match for match in map(SPLIT.fullmatch, folders) if match]
    if folders and len(splits) == len(folders):
        files: dict[str, list[str]] = {}
        for name, match in zip(folders, splits):
            [split] = (split for split, word in match.groupdict().items() if word)
            files.setdefault(split, []).append(f"{above}{glob.escape(name)}/**")
        return files
    if len(folders) == 1 and not any(path.suffix.lower() in ImageFolder.EXTENSIONS for path in folder.iterdir()):
        return _files_of_splits(folder / folders[0], f"{above}{glob.escape(folders[0])}/")
    return {"train": ["**"]}


def _usual_names(dataset: Any, image_column: str, label_column: str | None) -> Any:
    """Columns under their usual names, where these are asked for and what else there is leaves no doubt."""
    features = dataset.features or {}
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if image_column == IMAGE and IMAGE not in features and len(images) == 1:
        dataset = dataset.rename_column(images[0], IMAGE)
    if label_column == LABEL and LABEL not in features and "cls" in features:
        dataset = dataset.rename_column("cls", LABEL)
    return dataset


def with_classes(
    dataset: Dataset | IterableDataset, label_column: str, names: list[str] | None = None
) -> Dataset | IterableDataset:
    """
    The same rows with class ids and, where labels are texts or numbers of their own, the names of the classes.

    Texts become ids in alphabetical order. Whole numbers that are 0 to K - 1 are ids as they are; others (years, say) are names,
    in the order of the numbers. Ids with names, negative numbers and what is no label are left for others to judge.

    Args:
        dataset: A stream is not counted through: its labels have to be ids.
        names: Of another split, whose ids these labels get.

    Raises:
        ValueError: the labels of a stream are texts, or a text is none of `names`.
    """
    feature = (dataset.features or {}).get(label_column)
    dtype = getattr(feature, "dtype", None)
    is_text = dtype in ("string", "large_string")
    if isinstance(feature, ClassLabel) or not isinstance(feature, Value) or not (is_text or "int" in str(dtype)):
        return dataset
    if isinstance(dataset, IterableDataset):
        if is_text:
            raise ValueError(
                f"--label_column {label_column} holds texts, whose classes a stream does not tell: leave --streaming out, or "
                "give class ids."
            )
        return dataset
    labels = dataset.select_columns(label_column)[label_column][:]
    found = sorted({label for label in labels if label is not None})
    if not is_text and names is None and (not found or found[0] < 0 or found == list(range(len(found)))):
        return dataset
    names = names or [str(label) for label in found]
    ids = {name: i for i, name in enumerate(names)}
    if strange := [label for label in found if str(label) not in ids]:
        raise ValueError(
            f"--label_column {label_column} holds {strange[0]!r:.60}, which is no class of the other split."
        )
    encoded = [None if label is None else ids[str(label)] for label in labels]
    # Not by `class_encode_column`, which would write all images anew; added first, since without columns there are no rows.
    classes = dataset.add_column(f"{label_column} as class", encoded, feature=ClassLabel(names=names))
    return classes.remove_columns(label_column).rename_column(f"{label_column} as class", label_column)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def label_names(dataset: Dataset | IterableDataset, label_column: str | None) -> list[str] | None:
    """Class names in the order of their ids, or None where labels are absent or carry no names."""
    feature = (dataset.features or {}).get(label_column) if label_column else None
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def has_split(dataset: Dataset, train_data_dir: str | None, split: str) -> bool:
    """Whether the set of images of which `dataset` is a split has this one too; `train_data_dir`: its folder, if it is one."""
    if dataset.info.splits is not None:
        return split in dataset.info.splits
    return train_data_dir is not None and _idx_files(Path(train_data_dir), split) is not None


def spread_rows(dataset: Dataset, label_column: str | None, count: int) -> list[int]:
    """
    Row numbers of up to `count` images to look at: of as many classes as there are, and from all over the set.

    Files lie sorted by class as a rule, so that the first ones are all of one.
    """
    rows_of: dict[Any, list[int]] = {}
    has_labels = label_column is not None and label_column in (dataset.column_names or [])
    labels = dataset.select_columns(label_column)[label_column][:] if has_labels else [0] * len(dataset)
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    classes = [rows_of[label] for label in sorted(rows_of, key=lambda label: (label is None, label))]
    if len(classes) > count:
        classes = [classes[i] for i in np.linspace(0, len(classes) - 1, count).round().astype(int)]
    each = -(-count // len(classes)) if classes else 0
    spread = [
        [rows[i] for i in np.linspace(0, len(rows) - 1, min(each, len(rows))).round().astype(int)] for rows in classes
    ]
    in_turn = [rows[i] for i in range(each) for rows in spread if i < len(rows)]
    return in_turn[:count]


def undecoded(dataset: Dataset | IterableDataset, image_column: str) -> Any:
    """The same rows with images as `{"bytes": ..., "path": ...}`, for `image_to_array` to read."""
    return dataset.cast_column(image_column, Image(decode=False))


def num_channels_of(dataset: Dataset, image_column: str) -> int:
    """1 where images are grey, and 3 where they have colours: as the first that can be read."""
    for row in undecoded(dataset, image_column):
        try:
            return len(image_to_array(row[image_column]))
        except UnreadableImage:
            continue
    return 3


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
