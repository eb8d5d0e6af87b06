"""Real images passed through a pipeline's tokenizer: the floor that generation cannot go below."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..image_datasets import undecoded
from ..images import UnreadableImage, UnreadableImages, image_to_array
from ..models.tokenizer import encode_images
from .conditions import Requests
from .evaluator import MakeImages
from .sources import find_columns, open_dataset


ROWS = 256  # held in memory while they are looked at


def reconstruction(pipeline: Any, source: str) -> tuple[str, MakeImages, Requests]:
    """The name of a set of real images, and the first two arguments of `Evaluator.measure` for their reconstructions.

    Args:
        pipeline: its `vqvae` reconstructs.
        source: what `open_dataset` takes.

    Images that cannot be read are left out, with a warning that counts and names them. To know how many there are, all
    are read once before the first is reconstructed.

    Raises:
        ValueError: there are no images by that name, or half or more cannot be read.
    """
    name, dataset = open_dataset(source)
    image_column, label_column = find_columns(dataset)
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
    return name, reconstruct, Requests(len(dataset), class_labels=labels)
