"""What every reward is: features of images batch by batch, then a number for each image once all are there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ...metrics import FeatureExtractor


class Reward(ABC):
    """
    A number for each image, the larger the better; it may learn as the policy does.

    Every process calls all methods, each with images of its own, as many as the others.

    Args:
        accelerator: Of the training. extractor: What it sees images by, on the accelerator's device.
    """

    def __init__(self, accelerator: Accelerator, extractor: FeatureExtractor):
        self.accelerator, self.extractor = accelerator, extractor

    def see(self, images: Tensor) -> Any:
        """What is kept of a batch of images, uint8 `[B, C, H, W]`: features `[B, D]`."""
        features, _ = self.extractor(images)
        return features

    @abstractmethod
    def __call__(self, seen: list[Any], class_labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """
        Rewards of an update's images `[n]`, float32 on the accelerator's device, and what is to be logged.

        Args:
            seen: Of all batches. class_labels: `[n]`, what the images were asked to be.
        """

    def learn(self, seen: list[Any], class_labels: Tensor) -> dict[str, float]:
        """Learn from the images that were rewarded; what is to be logged."""
        return {}

    def parts(self) -> Mapping[str, Any]:
        """What a checkpoint keeps of it, by name: with `state_dict` and `load_state_dict`."""
        return {}


def standardised(accelerator: Accelerator, rewards: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the images of all processes."""
    everyone = accelerator.gather(rewards)
    return (rewards - everyone.mean()) / (everyone.std() + 1e-7)
