"""Pillow images as arrays: one way to prepare them for tokens, for reconstructions and for reference statistics."""

from __future__ import annotations

import numpy as np
from PIL import Image


def image_to_array(image: Image.Image, resolution: int | None, num_channels: int | None) -> np.ndarray:
    """An image as uint8 `[C, H, W]`; transparency is laid on white.

    Args:
        resolution: resize the shorter side to this and crop the centre; None leaves the size as it is.
        num_channels: 1 or 3; None keeps grey images grey and makes all others RGB.
    """
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        # Transparent pixels carry arbitrary colours: show them as a viewer on a white page would.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert({1: "L", 3: "RGB", None: "L" if image.mode == "L" else "RGB"}[num_channels])
    if resolution is not None:
        if min(image.size) != resolution:
            scale = resolution / min(image.size)
            size = (max(resolution, round(image.width * scale)), max(resolution, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
        image = image.crop((left, top, left + resolution, top + resolution))
    array = np.array(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
