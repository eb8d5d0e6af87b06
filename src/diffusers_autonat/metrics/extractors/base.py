"""What every extractor is: images in, features out, and for classifiers logits.

Every extractor is named together with a hash of its weights, because a distance means nothing without them. Images
become uint8 before anything else, as they would be saved, so images in memory and on disk give the same number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn


if TYPE_CHECKING:
    from .text_tower import TextTower


def to_uint8(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]`, uint8 or float in [0, 1], as the uint8 they would be saved as."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"Images must be [B, 1 or 3, H, W], got {list(images.shape)}.")
    if images.dtype == torch.uint8:
        return images
    images = images.float()
    low, high = torch.stack(images.aminmax()).tolist()  # one wait for the device
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true of NaN
        raise ValueError(f"Float images must lie in [0, 1], got values from {low:.3g} to {high:.3g}.")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def match_channels(images: Tensor, num_channels: int) -> Tensor:
    """Grey to colour by repetition, colour to grey in Pillow's own integer arithmetic; `[B, C, H, W]` uint8."""
    if images.shape[1] == num_channels:
        return images
    if num_channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.int().unbind(dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16).to(torch.uint8)[:, None]


@contextmanager
def plain_float32() -> Iterator[None]:
    """No TF32 and no choice of algorithm by chance, whatever the program has set: the same images, the same features.

    cuDNN multiplies in TF32 by default, which keeps 10 of 23 bits.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class FeatureExtractor(nn.Module):
    """Base of the extractors: the input contract, and features that do not depend on how images are batched.

    Matrix products round differently in another batch shape and at another place in the batch. So the network always
    sees exactly `batch_size` images, and the image with index i always stands at place i mod `batch_size`; places
    that are left over are filled with copies. The cost is small where batches hold consecutive images.

    Attributes:
        name: what it was loaded as; `weights_hash`: start of the SHA-256 of its weights.
        num_features: width D of the features; `num_classes`: width K of the logits, None without a classifier.
        id2label: names of the classes, None where the logits are not classes to ask for.
        preprocessing: how images are prepared and features pooled, as JSON data.
        is_standard_inception: whether a distance on its features may be called FID.
        text_tower: puts texts beside the features, where one was set.
    """

    name: str
    weights_hash: str
    num_features: int
    num_classes: int | None = None
    id2label: dict[int, str] | None = None
    preprocessing: dict[str, Any]
    is_standard_inception: bool = False

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size
        self.text_tower: TextTower | None = None

    def identity(self) -> dict[str, Any]:
        """What a report or a reference says about the extractor, as JSON data."""
        keys = ("name", "weights_hash", "num_features", "is_standard_inception", "preprocessing", "batch_size")
        return {key: getattr(self, key) for key in keys}

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `[B, D]` and logits `[B, K]` or None, of uint8 images `[B, 1 or 3, H, W]`."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features `[B, D]` in float32 and logits `[B, K]` or None.

        Args:
            images: uint8, or float in [0, 1], `[B, C, H, W]` with 1 or 3 channels, on any device.
            indices: index `[B]` of each image in the whole set; 0 to B - 1 when not given.
        """
        images = to_uint8(images).to(next(self.parameters()).device)
        place = (torch.arange(len(images)) if indices is None else indices.cpu()) % self.batch_size
        turn = (place == place[:, None]).tril(-1).sum(dim=1)  # how many images before this one want its place
        outputs, order = [], []
        for rows in (torch.nonzero(turn == i).flatten() for i in range(int(turn.max()) + 1)):
            batch = images[rows[:1]].repeat(self.batch_size, 1, 1, 1)
            batch[place[rows]] = images[rows]
            with plain_float32():
                extracted = self.extract(batch)
            outputs.append([x[place[rows]].float() for x in extracted if x is not None])
            order.append(rows)
        back = torch.cat(order).argsort()
        features, *logits = (torch.cat(parts)[back] for parts in zip(*outputs))
        return features, logits[0] if logits else None
