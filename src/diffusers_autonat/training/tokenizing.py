"""Images to a token set, part by part; `tokens` says what a set is, and reads it."""

from __future__ import annotations

import collections
import hashlib
import itertools
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from diffusers import VQModel
from tqdm.auto import tqdm

from ..files import write_json
from ..image_datasets import label_names, undecoded
from ..images import NAMED, TRANSFORM, UnreadableImage, UnreadableImages, image_to_array
from ..models.tokenizer import encode_images, scale_factor
from ..provenance import DIGITS, model_hash
from .tokens import (
    ANEW,
    SHARD_FILE,
    Part,
    TokenSetInfo,
    check_labels,
    check_shard,
    differences,
    part_path,
    read_part,
    read_shard_file,
    shard_path,
    whole_part,
    write_part,
)


COMPARED = 16  # images, evenly spaced, whose hash tells one data set from another
READERS = min(8, os.cpu_count() or 1)  # threads that read images

Row = TypeVar("Row")
Read = TypeVar("Read")


def tokenize_dataset(
    dataset: Dataset | IterableDataset,
    vqvae: VQModel,
    output_dir: str | Path,
    resolution: int,
    image_column: str = "image",
    label_column: str | None = "label",
    flips: bool = True,
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 256,
    images_per_part: int = 4096,
    show_progress: bool = True,
    caption_column: str | None = None,
) -> TokenSetInfo:
    """Write shard `i` of `n` of the token set of `dataset` to `output_dir`; of what is there already only what is damaged.

    Each row has `input_ids` (uint16 or int32, `[h * w]`) and `label` (-1 where there is none), and with a `caption_column`
    `captions`, a list of one or more texts. With `flips` the mirrored image follows as a row of its own. Images that
    cannot be read are left out and counted.

    Raises:
        ValueError: the folder holds tokens made in another way (says what is stored and what is asked), the shard does
            not exist, a label is no class or a caption no text, or half or more of the images cannot be read.
        OSError: the disk is full, or the folder may not be written; what was written is kept.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count} does not exist: name one from 0/{count} to {count - 1}/{count}.")
    for name, value in (("batch_size", batch_size), ("images_per_part", images_per_part)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1.")
    factor = scale_factor(vqvae)
    if resolution < 1 or resolution % factor:
        raise ValueError(f"resolution {resolution} is not a multiple of the tokenizer's factor {factor}.")
    rows = undecoded(dataset, image_column)
    info = TokenSetInfo(
        model_hash(vqvae), vqvae.config.num_vq_embeddings, resolution // factor, resolution, flips,
        label_names(dataset, label_column), count, dataset.info.dataset_name, dataset.split and str(dataset.split),
        image_column, label_column, len(dataset) if isinstance(dataset, Dataset) else None,
        dataset_hash(rows, image_column, label_column, caption_column), TRANSFORM, images_per_part, caption_column,
    )  # fmt: skip
    length = None
    if isinstance(dataset, Dataset):
        check_labels(_labels(dataset, label_column), info.label_names, "the data set")
        _check_captions(dataset, caption_column)
        if index >= len(dataset):
            raise ValueError(f"shard {index}/{count} holds no image: {len(dataset)} are too few for so many shards.")
        rows = rows.shard(count, index)
        length = len(rows)
    elif count > 1:  # every `count`-th image of a stream: its length need not be known
        rows = rows.filter(lambda _, i: i % count == index, with_indices=True)

    folder = shard_path(output_dir, index, count)
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: name the folder that it leads to with --output_dir, or remove it.")
    if (finished := _finished(folder, info, length)) is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SHARD_FILE).unlink(missing_ok=True)  # it stands for a whole shard only
    whole = _whole_parts(folder, info)
    read = _reader(info, image_column, label_column, vqvae.config.in_channels, batch_size)
    encode = _encoder(vqvae, flips)
    copies = 1 + flips  # rows of an image
    seen = sum(one.num_images + one.num_unreadable for one in whole.values())
    with tqdm(total=length, initial=seen, unit="image", disable=not show_progress) as progress:
        for number, part_rows in _missing(rows, images_per_part, whole):
            part = replace(info, unreadable=[])
            tokens: list[np.ndarray] = []
            labels: list[int] = []
            captions: list[list[str]] = []
            first = number * images_per_part
            readable = read(part_rows, first, part)
            while batch := list(itertools.islice(readable, batch_size)):
                tokens += encode([image for image, _, _ in batch])
                labels += [label for _, label, _ in batch for _ in range(copies)]
                captions += [texts for _, _, texts in batch for _ in range(copies)]
                progress.n = seen + part.num_images + part.num_unreadable
                progress.refresh()
            made = Part(np.array(tokens), np.array(labels, np.int64), part)
            if caption_column is not None:
                made.captions = pa.array(captions, pa.list_(pa.string()))
            write_part(part_path(folder, number), made)
            whole[number], seen = part, seen + part.num_images + part.num_unreadable
    done = replace(info, num_parts=len(whole), unreadable=[])
    for _, part in sorted(whole.items()):
        done.num_images += part.num_images
        done.num_unreadable += part.num_unreadable
        done.unreadable = (done.unreadable + part.unreadable)[:NAMED]
    UnreadableImages("the data set", done.num_images, done.num_unreadable, done.unreadable).check()
    if not done.num_images:
        raise ValueError(f"shard {index}/{count} holds no image: name a data set that has some.")
    write_json(folder / SHARD_FILE, asdict(done))
    check_shard(folder, done)
    return done


def dataset_hash(
    rows: Dataset | IterableDataset, image_column: str, label_column: str | None, caption_column: str | None = None
) -> str:
    """First digits of the SHA-256 of some images with labels and captions: tells data sets apart at little cost.

    Args:
        rows: `undecoded`. Of files it is their name and size that counts, so that folders may move.
    """
    digest = hashlib.sha256()
    if isinstance(rows, Dataset):
        some = rows.select(sorted({round(i) for i in np.linspace(0, len(rows) - 1, COMPARED)}) if len(rows) else [])
    else:
        some = rows.take(1)
    for row in some:
        image = row[image_column] or {}
        content, path = image.get("bytes"), image.get("path") or ""
        if content is None:
            size = Path(path).stat().st_size if Path(path).is_file() else 0
            content = f"{Path(path).name} {size}".encode()
        digest.update(hashlib.sha256(content).digest())
        digest.update(f"{row[label_column] if label_column else None};".encode())
        if caption_column is not None:
            digest.update(f"{row[caption_column]};".encode())
    return digest.hexdigest()[:DIGITS]


def _labels(dataset: Dataset, label_column: str | None) -> np.ndarray:
    """All labels of a data set as whole numbers; a ValueError names one that is none."""
    if label_column is None:
        return np.empty(0, np.int64)
    return np.array([_label(label, i) for i, label in enumerate(dataset.select_columns(label_column)[label_column])])


def _label(label: Any, index: int) -> int:
    if (
        isinstance(label, (bool, np.bool_))
        or not isinstance(label, (int, np.integer))
        or not -(2**31) <= label < 2**31
    ):
        raise ValueError(
            f"image {index} has the label {label!r:.60}, which is no class id: name another --label_column, or none."
        )
    return int(label)


def _check_captions(dataset: Dataset, caption_column: str | None) -> None:
    """A ValueError names the first caption of a data set that is none."""
    if caption_column is not None:
        for i, caption in enumerate(dataset.select_columns(caption_column)[caption_column]):
            _captions(caption, i)


def _captions(caption: Any, index: int) -> list[str]:
    """The texts of an image, which has one or a list of them."""
    texts = [caption] if isinstance(caption, str) else caption
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"image {index} has the caption {caption!r:.60}, which is no text: name another --caption_column, or leave that "
            "image out."
        )
    return texts


def _finished(folder: Path, info: TokenSetInfo, length: int | None) -> TokenSetInfo | None:
    """What a finished shard holds; None where there is none, or it is damaged and can be mended.

    Raises:
        ValueError: it holds other tokens.
    """
    if not (folder / SHARD_FILE).exists():
        return None
    try:
        found = read_shard_file(folder / SHARD_FILE)
    except ValueError as error:
        warnings.warn(f"{error}: it is made anew from the parts.", stacklevel=3)
        return None
    if found.describes_parts:
        _refuse_others(folder, found, info)
    else:
        _refuse_others(folder, found, replace(info, **{name: getattr(found, name) for name in _UNSAID}))
        check_shard(folder, found)
        seen = found.num_images + found.num_unreadable
        if length not in (None, seen):
            raise ValueError(f"{folder} holds the tokens of {seen} images, asked are {length}: {_elsewhere(folder)}.")
        warnings.warn(f"{folder} does not say of which images it was made; there are as many as asked.", stacklevel=3)
        return found
    try:
        check_shard(folder, found)
    except ValueError as error:
        warnings.warn(str(error).replace(f": {ANEW.format(folder)}", ""), stacklevel=3)
        return None
    return found


# What a shard of an earlier version does not say.
_UNSAID = (
    "dataset", "split", "image_column", "label_column", "dataset_size", "dataset_hash", "image_transform", "images_per_part"
)  # fmt: skip


def _whole_parts(folder: Path, info: TokenSetInfo) -> dict[int, TokenSetInfo]:
    """What the whole parts of an unfinished shard hold, by their number; damaged ones are named and will be made again.

    Raises:
        ValueError: one is of other tokens.
    """
    if (folder / "state.json").exists():  # beside parts that do not say how they were made
        raise ValueError(
            f"{folder} was begun by an earlier version, which cannot be continued: {ANEW.format(folder)}."
        )
    whole = {}
    for path in sorted(folder.glob("part-*.arrow")):
        try:
            said = read_part(path).info
        except ValueError as error:
            warnings.warn(f"{error}: it is made again.", stacklevel=3)
            continue
        if said is None:
            raise ValueError(f"{path} does not say how it was made: {ANEW.format(folder)}.")
        _refuse_others(path, said, info)
        try:
            whole_part(path, info)
        except ValueError as error:
            warnings.warn(f"{error}: it is made again.", stacklevel=3)
            continue
        whole[int(path.stem.removeprefix("part-"))] = said
    return whole


def _refuse_others(path: Path, found: TokenSetInfo, asked: TokenSetInfo) -> None:
    if different := differences(found, asked):
        names = ", ".join(name for name, value in asked.recipe().items() if found.recipe()[name] != value)
        raise ValueError(f"{path} holds tokens made with another {names} ({different}): {_elsewhere(path)}.")


def _elsewhere(path: Path) -> str:
    return f"choose another --output_dir, or remove {path if path.is_dir() else path.parent}"


def _missing(
    rows: Dataset | IterableDataset, size: int, whole: Collection[int]
) -> Iterator[tuple[int, Iterator[dict[str, Any]]]]:
    """Numbers and rows of the parts that are not there, in their order; of a stream, all rows have to be taken."""
    if isinstance(rows, Dataset):
        for number in range(math.ceil(len(rows) / size)):
            if number not in whole:
                yield number, iter(rows.select(range(number * size, min(len(rows), (number + 1) * size))))
        return
    first = next(number for number in itertools.count() if number not in whole)
    stream = iter(rows.skip(first * size))
    for number in itertools.count(first):
        head = next(stream, None)
        if head is None:
            return
        part = itertools.chain([head], itertools.islice(stream, size - 1))
        if number in whole:
            collections.deque(part, maxlen=0)
        else:
            yield number, part


def _reader(info: TokenSetInfo, image_column: str, label_column: str | None, num_channels: int, ahead: int) -> Any:
    met: set[int] = set()  # labels: of a stream they cannot be checked before

    def read(
        rows: Iterator[dict[str, Any]], first: int, part: TokenSetInfo
    ) -> Iterator[tuple[np.ndarray, int, list[str]]]:
        """Images as uint8 arrays with their label and captions; those that cannot be read are counted in `part`."""
        unreadable = UnreadableImages("the data set")

        def pixels(row: tuple[int, dict[str, Any]]) -> np.ndarray | UnreadableImage:
            index, stored = row[0], row[1][image_column] or {}
            name = stored.get("path") or f"image {index} of the shard"
            try:
                return image_to_array(stored, info.resolution, num_channels, name)
            except UnreadableImage as error:
                return error

        for (index, row), image in _read_ahead(pixels, enumerate(rows, first), ahead):
            label = _label(row[label_column], index) if label_column else -1
            met.add(label)
            check_labels(np.array([*met]), info.label_names, f"image {index}")
            captions = _captions(row[info.caption_column], index) if info.caption_column else []
            if isinstance(image, UnreadableImage):
                unreadable.add(image)
                part.num_unreadable, part.unreadable = unreadable.num_unreadable, unreadable.names
            else:
                part.num_images += 1
                yield image, label, captions

    return read


def _read_ahead(read: Callable[[Row], Read], rows: Iterable[Row], ahead: int) -> Iterator[tuple[Row, Read]]:
    """Each row with what `read` makes of it, in their order; threads read `ahead` of them while the caller works."""
    pool = ThreadPoolExecutor(READERS)
    waiting: collections.deque[tuple[Row, Future[Read]]] = collections.deque()
    try:
        for row in rows:
            waiting.append((row, pool.submit(read, row)))
            if len(waiting) > ahead:
                done, made = waiting.popleft()
                yield done, made.result()
        for done, made in waiting:
            yield done, made.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encoder(vqvae: VQModel, flips: bool) -> Any:
    def encode(images: list[np.ndarray]) -> list[np.ndarray]:
        pixels = torch.from_numpy(np.stack(images)).to(vqvae.device, vqvae.dtype).div_(255)
        ids = encode_images(vqvae, pixels)
        if flips:
            ids = torch.stack([ids, encode_images(vqvae, pixels.flip(-1))], dim=1).flatten(0, 1)
        return list(ids.cpu().numpy())

    return encode
