"""Real images passed through a pipeline's tokenizer: what generation would have with perfect tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..image_datasets import undecoded
from ..images import UnreadableImage, UnreadableImages, image_to_array
from ..models.tokenizer import encode_images
from .captions import find_caption_column
from .conditions import Requests
from .evaluator import MakeImages
from .sources import find_columns, find_label_column, open_dataset


ROWS = 256  # held in memory while they are looked at


def reconstruction(
    pipeline: Any, source: str, class_names: Sequence[str] | None = None
) -> tuple[str, MakeImages, Requests]:
    """The name of a set of real images, and the first two arguments of `Evaluator.measure` for their reconstructions.

    Args:
        pipeline: its `vqvae` reconstructs.
        source: what `open_dataset` takes; its captions, if it has any, count as what was asked for.
        class_names: of a classifier: a column of these classes goes before others.

    Images that cannot be read are left out, with a warning that counts and names them. To know how many there are, all
    are read once before the first is reconstructed.

    Raises:
        ValueError: there are no images by that name, or half or more cannot be read.
    """
    name, dataset = open_dataset(source)
    image_column, label_column = find_columns(dataset)
    label_column = find_label_column(dataset, class_names) or label_column
    resolution = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    num_channels = pipeline.vqvae.config.in_channels

    dataset = undecoded(dataset, image_column)
    unreadable = UnreadableImages(name)

    def read(row: dict[str, Any]) -> np.ndarray | UnreadableImage:
        try:
            return image_to_array(row[image_column], resolution, num_channels)
        except UnreadableImage as error:
            return error

    readable = []
    with ThreadPoolExecutor() as threads:  # the decoders work side by side
        for start in range(0, len(dataset), ROWS):
            rows = dataset.select(range(start, min(start + ROWS, len(dataset))))
            for index, image in enumerate(threads.map(read, rows), start):
                if isinstance(image, UnreadableImage):
                    unreadable.add(image)
                else:
                    unreadable.num_read += 1
                    readable.append(index)
    unreadable.finish()
    dataset = dataset.select(readable)

    def reconstruct(indices: Tensor, requests: Requests) -> Tensor:
        images = dataset[indices.tolist()][image_column]
        arrays = np.stack([image_to_array(image, resolution, num_channels) for image in images])
        pixels = torch.from_numpy(arrays).float().div_(255)
        return pipeline.decode_latents(encode_images(pipeline.vqvae, pixels.to(pipeline.device, pipeline.vqvae.dtype)))

    labels = torch.tensor(dataset[label_column][:]) if label_column else None
    return name, reconstruct, Requests(len(dataset), _captions(dataset), labels)


def _captions(dataset: Any) -> dict[str, list[str]]:
    """Of each image its first caption, as it would be asked for; empty where some have none."""
    try:
        texts = dataset[find_caption_column(dataset)][:]
    except ValueError:
        return {}
    firsts = [text if isinstance(text, str) else next(iter(text or ()), None) for text in texts]
    return {"prompt": [str(text) for text in firsts]} if all(firsts) else {}
