"""Networks that turn images into features, and for classifiers into logits; one file for each kind."""

from __future__ import annotations

from pathlib import Path

from .base import FeatureExtractor
from .inception import InceptionExtractor
from .text_tower import TextTower
from .vision_model import TransformersExtractor


__all__ = ["FeatureExtractor", "InceptionExtractor", "TextTower", "TransformersExtractor", "load_extractor"]


def load_extractor(name: str, weights: str | Path | None = None, batch_size: int = 32) -> FeatureExtractor:
    """Load a feature extractor in evaluation mode; move it with `.to(device)`.

    Args:
        name: `inception`, or a transformers vision model by Hub id or local folder.
        weights: weights file for `inception`.
        batch_size: images per forward pass. Part of the number in the last digits, so leave it alone when comparing.
    """
    if name == "inception":
        return InceptionExtractor(weights, batch_size)
    if weights is not None:
        raise ValueError(f"A weights file goes with `inception` only; {name} brings its own.")
    return TransformersExtractor(name, batch_size)
