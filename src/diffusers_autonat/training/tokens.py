"""Token sets: images turned into token ids once, stored as Arrow files that training maps into memory.

A set is a folder of shards; a shard is a folder of Arrow parts and a `shard.json`, written last, that says what the
parts hold. Parts appear whole or not at all, so a killed run continues behind its last part.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, IterableDataset, Sequence, Value, concatenate_datasets
from diffusers import VQModel
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..models.tokenizer import encode_images, scale_factor
from ..provenance import model_hash
from .data import image_to_array, label_names


@dataclass
class TokenSetInfo:
    """What a shard holds and how it was made; equal for all shards of a set but for the counts and names at the end."""

    vqvae_hash: str
    codebook_size: int
    sample_size: int
    resolution: int
    flips: bool
    label_names: list[str] | None
    num_shards: int
    num_images: int = 0
    num_unreadable: int = 0
    unreadable: list[str] = field(default_factory=list)

    def recipe(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k not in ("num_images", "num_unreadable", "unreadable")}


def _readable(
    dataset: Dataset | IterableDataset, info: TokenSetInfo, image_column: str, label_column: str | None, channels: int
) -> Iterator[tuple[np.ndarray | None, int]]:
    """Images as uint8 arrays with their labels; None where a file cannot be read, which `info` counts and names."""
    for index, row in enumerate(dataset.cast_column(image_column, Image(decode=False))):
        image = row[image_column]
        try:
            source = io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]
            array = image_to_array(PILImage.open(source), info.resolution, channels)
        except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
            info.num_unreadable += 1
            info.unreadable.append(f"{image['path'] or f'image {index} of the shard'}: {error}")
            array = None
        yield array, int(row[label_column]) if label_column else -1


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
) -> TokenSetInfo:
    """Write shard `i` of `n` of the token set of `dataset` to `output_dir`; a finished shard is left as it is.

    Each row has `input_ids` (uint16 or int32, `[h * w]`) and `label` (-1 where there is none). With `flips` the
    mirrored image follows as a row of its own.

    Raises:
        ValueError: the folder holds tokens made in another way, the shard does not exist, or no image can be read.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count} does not exist: name one from 0/{count} to {count - 1}/{count}.")
    device, channels = vqvae.device, vqvae.config.in_channels
    factor = scale_factor(vqvae)
    if resolution % factor:
        raise ValueError(f"resolution {resolution} is not a multiple of the tokenizer's factor {factor}.")
    info = TokenSetInfo(
        model_hash(vqvae), vqvae.config.num_vq_embeddings, resolution // factor, resolution, flips,
        label_names(dataset, label_column), count,
    )  # fmt: skip
    folder = Path(output_dir) / f"shard-{index:05d}-of-{count:05d}"
    state_file, done_file = folder / "state.json", folder / "shard.json"
    folder.mkdir(parents=True, exist_ok=True)
    known = done_file if done_file.exists() else state_file
    parts = 0
    if known.exists():
        state = json.loads(known.read_text())
        parts = state.pop("parts", 0)
        stored = TokenSetInfo(**state)
        if stored.recipe() != info.recipe():
            changed = [k for k, v in info.recipe().items() if stored.recipe()[k] != v]
            raise ValueError(f"{folder} holds tokens made with another {', '.join(changed)}; choose another folder.")
        info = stored
        if known == done_file:
            return info

    total = len(dataset) if isinstance(dataset, Dataset) else None
    dataset = dataset.shard(count, index) if total is not None else _every(dataset, count, index)
    done = parts * images_per_part
    rows = dataset.skip(done) if done else dataset
    width = np.uint16 if info.codebook_size <= 2**16 else np.int32
    features = Features(
        {"input_ids": Sequence(Value(np.dtype(width).name), length=info.sample_size**2), "label": Value("int32")}
    )

    def save_part(tokens: list[np.ndarray], labels: list[int]) -> None:
        nonlocal parts
        part = Dataset.from_dict({"input_ids": tokens, "label": labels}, features=features)
        partial = folder / "partial.arrow"
        _write_arrow(part, partial)
        os.replace(partial, folder / f"part-{parts:05d}.arrow")
        parts += 1
        _write_json(state_file, {**asdict(info), "parts": parts})

    def encode(images: list[np.ndarray]) -> list[np.ndarray]:
        pixels = torch.from_numpy(np.stack(images)).to(device, vqvae.dtype).div_(255)
        ids = encode_images(vqvae, pixels)
        if flips:
            ids = torch.stack([ids, encode_images(vqvae, pixels.flip(-1))], dim=1).flatten(0, 1)
        return list(ids.cpu().numpy().astype(width))

    repeat = 2 if flips else 1
    tokens: list[np.ndarray] = []
    labels: list[int] = []
    images: list[np.ndarray] = []
    length = None if total is None else len(dataset)
    with tqdm(total=length, initial=done, unit="image", disable=not show_progress) as progress:
        for seen, (image, label) in enumerate(_readable(rows, info, image_column, label_column, channels), done + 1):
            if image is not None:
                images.append(image)
                labels += [label] * repeat
                info.num_images += 1
            if len(images) == batch_size or (images and seen % images_per_part == 0):
                tokens += encode(images)
                images = []
            if seen % images_per_part == 0:
                save_part(tokens, labels)
                tokens, labels = [], []
            progress.update()
    if images:
        tokens += encode(images)
    if tokens:
        save_part(tokens, labels)
    if info.num_images == 0:
        raise ValueError(f"none of the images could be read, e.g. {info.unreadable[:1]}.")
    _write_json(done_file, asdict(info))
    state_file.unlink(missing_ok=True)
    return info


def is_token_set(folder: str | Path | None) -> bool:
    return folder is not None and any(Path(folder).glob("shard-*-of-*"))


def load_token_set(folder: str | Path) -> tuple[Dataset, TokenSetInfo]:
    """Map all shards of a set into memory.

    Raises:
        ValueError: the folder holds no token set, or shards are missing, unfinished or made in different ways.
    """
    shards = sorted(Path(folder).glob("shard-*-of-*"))
    if not shards:
        raise ValueError(f"{folder} holds no token set; make one with training/tokenize_images.py.")
    unfinished = [shard.name for shard in shards if not (shard / "shard.json").exists()]
    infos = [
        TokenSetInfo(**json.loads((shard / "shard.json").read_text()))
        for shard in shards
        if shard.name not in unfinished
    ]
    if unfinished or len(shards) != infos[0].num_shards:
        expected = infos[0].num_shards if infos else "all"
        raise ValueError(
            f"{folder} is incomplete: {len(shards)} of {expected} shards are there, unfinished: {unfinished or 'none'}; "
            "run training/tokenize_images.py again for those."
        )
    if any(info.recipe() != infos[0].recipe() for info in infos):
        raise ValueError(f"the shards of {folder} were made in different ways; make them again with one tokenizer.")
    parts = [Dataset.from_file(str(part)) for shard in shards for part in sorted(shard.glob("part-*.arrow"))]
    info = infos[0]
    info.num_images, info.num_unreadable = (
        sum(getattr(i, k) for i in infos) for k in ("num_images", "num_unreadable")
    )
    info.unreadable = [name for i in infos for name in i.unreadable]
    return concatenate_datasets(parts), info


def collate_tokens(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows of a token set to `input_ids` `[B, N]` and `class_labels` `[B]`, both int64."""
    return {
        "input_ids": torch.from_numpy(np.stack([row["input_ids"] for row in rows]).astype(np.int64)),
        "class_labels": torch.tensor([int(row["label"]) for row in rows]),
    }


def _every(dataset: IterableDataset, count: int, index: int) -> IterableDataset:
    """Every `count`-th image of a stream: shards of a stream do not need its length."""
    return dataset if count == 1 else dataset.filter(lambda _, i: i % count == index, with_indices=True)


def _write_arrow(dataset: Dataset, path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, dataset.data.schema) as writer:
        writer.write_table(dataset.data.table)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(partial, path)


def warn_unreadable(info: TokenSetInfo) -> None:
    if info.num_unreadable:
        shown = "\n  ".join(info.unreadable[:10])
        warnings.warn(f"{info.num_unreadable} images could not be read and are left out:\n  {shown}", stacklevel=2)
