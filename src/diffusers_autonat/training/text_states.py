"""What a text encoder says of captions, computed once for each distinct one and mapped into memory by every training."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, concatenate_datasets
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..files import naming, whole_file
from ..pipelines.prompts import encode_texts
from ..provenance import DIGITS, model_hash


TEXTS_PER_PART, TEXTS_PER_BATCH = 1024, 128


def number_captions(tokens: Dataset) -> tuple[Dataset, list[str]]:
    """Rows of a token set with `caption_ids` for their `captions`, and the distinct texts that these number.

    The first text is the empty one, which stands for no caption.
    """
    captions = tokens.data["captions"].combine_chunks()
    distinct = pc.unique(captions.flatten())
    texts = pa.concat_arrays([pa.array([""]), distinct.filter(pc.not_equal(distinct, ""))])
    ids = pc.index_in(captions.flatten(), texts)
    lengths = pc.list_value_length(captions).to_numpy()
    offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
    numbers = Dataset(pa.table({"caption_ids": pa.ListArray.from_arrays(offsets, ids)}))
    rows = concatenate_datasets([tokens.with_format(None).remove_columns("captions"), numbers], axis=1)
    return rows.with_format("numpy"), texts.to_pylist()


@dataclass(frozen=True)
class TextStates:
    """
    States of texts by their number.

    Args:
        parts: `[TEXTS_PER_PART, context_length, context_dim]` each, the last one shorter; mapped, not read.
    """

    parts: list[torch.Tensor]

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        text_encoder: Any,
        tokenizer: Any,
        context_length: int,
        folder: str | Path,
        show_progress: bool = True,
    ) -> TextStates:
        """
        Those in `folder`, made first where they are missing; a kill costs one part.

        Args:
            text_encoder: On the device that computes.
            folder: Gets a folder `text-states-<hash>`, so that other encoders, lengths or texts have another.

        Raises:
            OSError: The disk is full, or the folder may not be written.
        """
        digest = hashlib.sha256(
            f"{model_hash(text_encoder)} {context_length} {sorted(tokenizer.get_vocab().items())}".encode()
        )
        for text in texts:
            digest.update(text.encode() + b"\0")
        folder = Path(folder) / f"text-states-{digest.hexdigest()[:DIGITS]}"
        chunks = [texts[first : first + TEXTS_PER_PART] for first in range(0, len(texts), TEXTS_PER_PART)]
        parts: list[torch.Tensor] = []
        too_long = 0
        with tqdm(total=len(texts), unit="text", desc="text states", disable=not show_progress) as progress:
            for number, chunk in enumerate(chunks):
                path = folder / f"part-{number:05d}.safetensors"
                part = _read(path)
                if part is None or part.shape[:2] != (len(chunk), context_length):
                    states = []
                    for first in range(0, len(chunk), TEXTS_PER_BATCH):
                        batch = list(chunk[first : first + TEXTS_PER_BATCH])
                        too_long += sum(len(ids) > context_length for ids in tokenizer(batch, verbose=False).input_ids)
                        encoded = encode_texts(text_encoder, tokenizer, batch, context_length, text_encoder.device)
                        states.append(encoded.cpu())
                        progress.update(len(batch))
                    with naming(path), whole_file(path) as partial:
                        save_file({"states": torch.cat(states)}, partial)
                    part = load_file(path)["states"]
                else:
                    progress.update(len(chunk))
                parts.append(part)
        if too_long:
            warnings.warn(
                f"{too_long} of {len(texts)} captions have more than {context_length} tokens: their ends are left out.",
                stacklevel=2,
            )
        return cls(parts)

    @property
    def size(self) -> tuple[int, int]:
        """context_length, context_dim"""
        _, length, width = self.parts[0].shape
        return length, width

    def __getitem__(self, numbers: Sequence[int]) -> torch.Tensor:
        """`[len(numbers), context_length, context_dim]` on the CPU."""
        return torch.stack([self.parts[number // TEXTS_PER_PART][number % TEXTS_PER_PART] for number in numbers])


def _read(path: Path) -> torch.Tensor | None:
    """None where there is no whole file."""
    try:
        return load_file(path)["states"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None
