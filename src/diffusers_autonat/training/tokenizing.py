"""Images to a token set, part by part; `tokens` says what a set is, and reads it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, Image, IterableDataset, Sequence, Value
from diffusers import VQModel
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..files import whole_file, write_json
from ..image_datasets import label_names
from ..images import image_to_array
from ..models.tokenizer import encode_images, scale_factor
from ..provenance import model_hash
from .tokens import SHARD_FILE, TokenSetInfo


class _Shard:
    """A shard that is being written: a state file counts its parts, so that a killed run continues behind the last one."""

    def __init__(self, folder: Path, info: TokenSetInfo):
        """Raises a ValueError where `folder` holds tokens made in another way than `info` says."""
        self.folder, self.info, self.parts = folder, info, 0
        self.state_file, self.done_file = folder / "state.json", folder / SHARD_FILE
        self.is_done = self.done_file.exists()
        folder.mkdir(parents=True, exist_ok=True)
        known = self.done_file if self.is_done else self.state_file
        if known.exists():
            state = json.loads(known.read_text())
            self.parts = state.pop("parts", 0)
            self.info = TokenSetInfo(**state)
            changed = [key for key, value in info.recipe().items() if self.info.recipe()[key] != value]
            if changed:
                raise ValueError(
                    f"{folder} holds tokens made with another {', '.join(changed)}; choose another folder."
                )
        self.dtype = np.uint16 if info.codebook_size <= 2**16 else np.int32
        ids = Sequence(Value(np.dtype(self.dtype).name), length=info.sample_size**2)
        self.features = Features({"input_ids": ids, "label": Value("int32")})

    def save_part(self, tokens: list[np.ndarray], labels: list[int]) -> None:
        part = Dataset.from_dict({"input_ids": tokens, "label": labels}, features=self.features).data
        with whole_file(self.folder / f"part-{self.parts:05d}.arrow") as path, pa.OSFile(str(path), "wb") as sink:
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_table(part.table)
        self.parts += 1
        write_json(self.state_file, {**asdict(self.info), "parts": self.parts})

    def finish(self) -> None:
        write_json(self.done_file, asdict(self.info))
        self.state_file.unlink(missing_ok=True)


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
    factor = scale_factor(vqvae)
    if resolution % factor:
        raise ValueError(f"resolution {resolution} is not a multiple of the tokenizer's factor {factor}.")
    wanted = TokenSetInfo(
        model_hash(vqvae), vqvae.config.num_vq_embeddings, resolution // factor, resolution, flips,
        label_names(dataset, label_column), count,
    )  # fmt: skip
    output = _Shard(Path(output_dir) / f"shard-{index:05d}-of-{count:05d}", wanted)
    info = output.info
    if output.is_done:
        return info

    length = None
    if isinstance(dataset, Dataset):
        dataset = dataset.shard(count, index)
        length = len(dataset)
    elif count > 1:  # every `count`-th image of a stream: its length need not be known
        dataset = dataset.filter(lambda _, i: i % count == index, with_indices=True)
    done = output.parts * images_per_part
    rows = dataset.skip(done) if done else dataset

    def encode(images: list[np.ndarray]) -> list[np.ndarray]:
        pixels = torch.from_numpy(np.stack(images)).to(vqvae.device, vqvae.dtype).div_(255)
        ids = encode_images(vqvae, pixels)
        if flips:
            ids = torch.stack([ids, encode_images(vqvae, pixels.flip(-1))], dim=1).flatten(0, 1)
        return list(ids.cpu().numpy().astype(output.dtype))

    tokens: list[np.ndarray] = []
    labels: list[int] = []
    images: list[np.ndarray] = []
    readable = _readable(rows, info, image_column, label_column, vqvae.config.in_channels)
    with tqdm(total=length, initial=done, unit="image", disable=not show_progress) as progress:
        for seen, (image, label) in enumerate(readable, done + 1):
            if image is not None:
                images.append(image)
                labels += [label] * (2 if flips else 1)
                info.num_images += 1
            if len(images) == batch_size or (images and seen % images_per_part == 0):
                tokens += encode(images)
                images = []
            if seen % images_per_part == 0:
                output.save_part(tokens, labels)
                tokens, labels = [], []
            progress.update()
    if images:
        tokens += encode(images)
    if tokens:
        output.save_part(tokens, labels)
    if info.num_images == 0:
        raise ValueError(f"none of the images could be read, e.g. {info.unreadable[:1]}.")
    output.finish()
    return info


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
