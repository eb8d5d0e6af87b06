"""Real images passed through a pipeline's tokenizer: the floor that generation cannot go below."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..images import image_to_array
from ..models.tokenizer import encode_images
from .conditions import Requests
from .evaluator import MakeImages
from .sources import find_columns, open_dataset


def reconstruction(pipeline: Any, source: str) -> tuple[str, MakeImages, Requests]:
    """The name of a set of real images, and the first two arguments of `Evaluator.measure` for their reconstructions.

    Args:
        pipeline: its `vqvae` reconstructs.
        source: what `open_dataset` takes.

    Raises:
        ValueError: there are no images by that name.
    """
    name, dataset = open_dataset(source)
    image_column, label_column = find_columns(dataset)
    resolution = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    num_channels = pipeline.vqvae.config.in_channels

    def reconstruct(indices: Tensor, requests: Requests) -> Tensor:
        images = dataset[indices.tolist()][image_column]
        arrays = np.stack([image_to_array(image, resolution, num_channels) for image in images])
        pixels = torch.from_numpy(arrays).float().div_(255)
        return pipeline.decode_latents(encode_images(pipeline.vqvae, pixels.to(pipeline.device, pipeline.vqvae.dtype)))

    labels = torch.tensor(dataset[label_column][:]) if label_column else None
    return name, reconstruct, Requests(len(dataset), class_labels=labels)
