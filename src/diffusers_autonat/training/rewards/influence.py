"""Reward by influence: how much an image brings the Fréchet distance to a reference down."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ...metrics import FeatureExtractor, FrechetDistance, Reference
from ...metrics.influence import BANK, FrechetInfluence, Population
from .base import Reward


class InfluenceReward(Reward):
    """
    Minus the influence of each image on the distance (`FrechetInfluence.of_update`), among the images of all processes.

    Args:
        reference: What the distance is to; of this extractor.
    """

    def __init__(self, accelerator: Accelerator, extractor: FeatureExtractor, reference: Reference):
        super().__init__(accelerator, extractor)
        reference.check_extractor(extractor)
        self.reference, self.influence = reference, FrechetInfluence(reference)
        self.earlier: list[Population] = []  # the latest last

    def __call__(self, seen: list[Any], class_labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        features = torch.cat(seen)
        everyone = self.accelerator.gather(features)
        projected = self.influence.project(everyone)
        earlier = [one.faded(len(self.earlier) - age) for age, one in enumerate(self.earlier)]
        rewards = -self.influence.of_update(projected, earlier)
        self.earlier = [*self.earlier, self.influence.remembered(projected)][-BANK:]

        distance = FrechetDistance(self.reference, sync_on_compute=False)
        distance.update(everyone.cpu())
        [(name, value)] = distance.compute().items()
        mine = rewards[self.accelerator.process_index * len(features) :][: len(features)]
        return mine.float().to(self.accelerator.device), {f"rollout_{name}": value.item()}

    def parts(self) -> dict[str, Any]:
        return {"influence": self}

    def state_dict(self) -> dict[str, Any]:
        return {
            str(age): {"count": one.count, "covariance": one.covariance, "mean": one.mean}
            for age, one in enumerate(self.earlier)
        }

    def load_state_dict(self, state: dict[Any, Any]) -> None:
        self.earlier = [
            Population(values["count"], values["mean"], values["covariance"]) for _, values in sorted(state.items())
        ]
