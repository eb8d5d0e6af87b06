"""What a transformers image processor does to an image, on batches of tensors and without torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


INTERPOLATION = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # by Pillow's number


@dataclass(frozen=True)
class Preprocessing:
    """What an image processor does to an image, on batches of tensors and without torchvision.

    Args:
        size: (height, width), or the length of the shorter edge, or None to leave the size as it is.
        crop: (height, width) of the centre crop, or None.
        resample: `F.interpolate` mode.
        scale: factor on the values 0 to 255; `mean` and `std`: of the scaled values, one or one per channel.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    resample: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, processor: Any) -> Preprocessing:
        """Read a transformers image processor, class defaults included; `crop_pct` becomes a size and a crop."""
        size, crop = None, None
        if getattr(processor, "do_resize", False):
            edge = processor.size.get("shortest_edge")
            size = edge or (processor.size["height"], processor.size["width"])
            crop_pct = getattr(processor, "crop_pct", None)
            if crop_pct is not None:  # ConvNeXt: below 384 pixels resize larger and crop, from there on warp
                size, crop = (int(edge / crop_pct), (edge, edge)) if edge < 384 else ((edge, edge), None)
        if getattr(processor, "do_center_crop", False):
            crop = (processor.crop_size["height"], processor.crop_size["width"])
        normalise = getattr(processor, "do_normalize", False)
        return cls(
            size=size,
            crop=crop,
            resample=INTERPOLATION[int(processor.resample)] if size is not None else "bilinear",
            scale=processor.rescale_factor if getattr(processor, "do_rescale", False) else 1.0,
            mean=tuple(processor.image_mean) if normalise else (0.0,),
            std=tuple(processor.image_std) if normalise else (1.0,),
        )

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]` to float32 `[B, C, h, w]`."""
        height, width = images.shape[-2:]
        size = self.size or (height, width)
        if isinstance(size, int):
            short = min(height, width)
            size = (int(size * height / short), int(size * width / short))
        pixels = images.float()
        if size != (height, width):
            antialias = {} if self.resample == "nearest-exact" else {"align_corners": False, "antialias": True}
            # Rounded as Pillow would, so that bicubic overshoot is cut and devices agree.
            pixels = F.interpolate(pixels, size, mode=self.resample, **antialias).round().clamp(0, 255)
        if self.crop is not None:
            top, left = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            pixels = pixels[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels * self.scale - mean) / std
