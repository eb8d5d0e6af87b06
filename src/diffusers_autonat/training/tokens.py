"""Token sets: images turned into token ids once, stored as Arrow files that training maps into memory.

A set is a folder of shards; a shard is a folder of Arrow parts and a `shard.json`, written last, that says what the
parts hold. Parts appear whole or not at all, so a killed run continues behind its last part.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets


SHARD_FILE = "shard.json"  # in the folder of a finished shard


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
    unfinished = [shard.name for shard in shards if not (shard / SHARD_FILE).exists()]
    infos = [
        TokenSetInfo(**json.loads((shard / SHARD_FILE).read_text()))
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


def warn_unreadable(info: TokenSetInfo) -> None:
    if info.num_unreadable:
        shown = "\n  ".join(info.unreadable[:10])
        warnings.warn(f"{info.num_unreadable} images could not be read and are left out:\n  {shown}", stacklevel=2)
