"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .base import Reward, standardised


class WeightedReward(Reward):
    """
    A weighted sum. Each reward is standardised over the images of the update first, so that weights compare.

    Rewards that see images by the same extractor share its features.

    Args:
        rewards: With their weights, by name.
    """

    def __init__(self, accelerator: Accelerator, rewards: Mapping[str, tuple[Reward, float]]):
        super().__init__(accelerator, next(iter(rewards.values()))[0].extractor)
        self.rewards = rewards

    def see(self, images: Tensor) -> dict[str, Any]:
        by_extractor: dict[int, Any] = {}
        for reward, _ in self.rewards.values():
            if id(reward.extractor) not in by_extractor:
                by_extractor[id(reward.extractor)] = reward.see(images)
        return {name: by_extractor[id(reward.extractor)] for name, (reward, _) in self.rewards.items()}

    def __call__(self, seen: list[Any], class_labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        total, logs = torch.zeros(len(class_labels), device=self.accelerator.device), dict[str, float]()
        for name, (reward, weight) in self.rewards.items():
            rewards, more = reward([batch[name] for batch in seen], class_labels)
            total += weight * standardised(self.accelerator, rewards)
            logs |= more
        return total, logs

    def learn(self, seen: list[Any], class_labels: Tensor) -> dict[str, float]:
        logs: dict[str, float] = {}
        for name, (reward, _) in self.rewards.items():
            logs |= reward.learn([batch[name] for batch in seen], class_labels)
        return logs

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        for reward, _ in self.rewards.values():
            parts |= reward.parts()
        return parts
