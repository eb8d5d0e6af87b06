"""R-precision: whether an image shows its caption rather than others, by the opinion of a network of two towers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .statistics import FeatureBank


if TYPE_CHECKING:
    from .extractors import TextTower

CANDIDATES = 100


def r_precision(images: Tensor, texts: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """Share of images that are nearer to their own caption than to all other candidates (Xu et al. 2018, arXiv:1711.10485).

    The others are drawn from the captions of the other images, for image i by a random stream of its own, so that they
    do not depend on what images look like. By chance the share is 1 / `candidates`.

    Args:
        images: `[N, D]` and `texts` `[N, D]`, of length one; equal captions have equal rows, and rows that are equal count as
            one caption.
        candidates: captions for each image, its own among them.

    Raises:
        ValueError: there are fewer different captions.
    """
    distinct, own = texts.unique(dim=0, return_inverse=True)
    if len(distinct) < candidates:
        raise ValueError(f"r_precision needs {candidates} different captions, and the images have {len(distinct)}.")
    found = torch.zeros((), dtype=torch.int64)
    for i, (image, label) in enumerate(zip(images, own.tolist())):
        drawn = torch.randperm(len(distinct) - 1, generator=torch.Generator().manual_seed(i))[: candidates - 1]
        others = (drawn + (drawn >= label)).to(distinct.device)
        found += int((distinct[others] @ image < image @ distinct[label]).all())
    return found.double() / len(images)


class RPrecision(FeatureBank):
    """`r_precision` of the added images and what they were asked to show.

    Args:
        text_tower: puts features and texts into one space.
        kwargs: arguments of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, text_tower: TextTower, **kwargs: Any):
        self.widths = text_tower.widths
        super().__init__(sum(self.widths), **kwargs)
        # As functions, since a network would become a part of the metric, to be saved with it.
        self.embed_images, self.embed_texts = text_tower.embed_images, text_tower.embed_texts

    def update(self, features: Tensor, prompts: list[str], indices: Tensor) -> None:  # type: ignore[override]
        """Add features `[B, D]` of images, what each was asked to show, and their indices `[B]`."""
        texts = self.embed_texts(prompts).to(features.device)
        super().update(torch.cat([features, texts], dim=1), indices)

    def compute(self) -> dict[str, Tensor]:
        """`{"r_precision": share}`."""
        features, texts = super().compute().split(self.widths, dim=1)
        return {"r_precision": r_precision(self.embed_images(features).to(texts.device), texts)}
