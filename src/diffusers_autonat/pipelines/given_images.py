"""Images and masks that a call is given: as tensors of the size of the pipeline's own images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from ..images import image_to_array


CropBox = tuple[int, int, int, int]


def to_list(images: Any) -> list[Any]:
    """One image, a list of them, or an array or tensor with the batch in front, as a list."""
    if isinstance(images, (list, tuple)):
        return list(images)
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def to_pixels(
    images: Any, name: str, processor: VaeImageProcessor, side: int, num_channels: int, crop: CropBox | None = None
) -> torch.Tensor:
    """
    Images `[B, C, side, side]` in [0, 1].

    Args:
        images: Pillow images or arrays (`image_to_array` reads them), or tensors `[C, H, W]` in [0, 1]; one, a list, or a
            batch.
        name: Of the argument, for errors.
        processor: Resizes, and makes masks black and white.
        crop: Of Pillow images, in pixels; what is cropped is enlarged with its proportions kept.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    items = to_list(images)
    if not items:
        raise ValueError(f"{name} is empty: give at least one image.")
    if all(isinstance(item, torch.Tensor) for item in items):
        shapes = {tuple(item.shape) for item in items}
        if any(len(shape) != 3 or shape[0] != num_channels for shape in shapes) or len(shapes) > 1:
            raise ValueError(f"{name} must be tensors [{num_channels}, H, W] of one size, got {sorted(shapes)}.")
        pixels = torch.stack(items).float()
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"{name} has values from {pixels.min():.3g} to {pixels.max():.3g}: scale them to 0 to 1.")
        return processor.preprocess(pixels, side, side)
    read = []
    for number, item in enumerate(items):
        called = name if len(items) == 1 else f"{name}[{number}]"
        array = image_to_array(item, num_channels=num_channels, name=called)  # [C, H, W]
        read.append(Image.fromarray(array[0] if num_channels == 1 else array.transpose(1, 2, 0)))
    return processor.preprocess(read, side, side, "default" if crop is None else "fill", crop)


def masked_tokens(mask: torch.Tensor, scale_factor: int) -> torch.BoolTensor:
    """Tokens `[B, N]` with any white pixel, of a mask `[B, 1, H, W]` of zeros and ones."""
    return torch.nn.functional.max_pool2d(mask, scale_factor).flatten(1) > 0.5
