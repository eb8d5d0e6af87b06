"""Reward by influence: how much an image brings the Fréchet distance to a reference down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ...metrics import FeatureExtractor, FrechetDistance, Reference
from ...metrics.influence import FrechetInfluence, Population
from .base import Reward


EARLIER = 3  # updates whose images help to know the covariance, which from one update is rough
FADED = 0.5  # what an image of an earlier update counts, for each update since
CLIPPED = 0.02  # share of the rewards at either end that count no more than the next: a few odd images must not decide


class InfluenceReward(Reward):
    """
    Minus the influence of each image on the distance (`metrics.influence`), among the images of all processes.

    The mean is that of the update's images; their covariance is pooled with those of earlier updates, each around its own
    mean, as population search does.

    Args:
        reference: What the distance is to; of this extractor.
    """

    def __init__(self, accelerator: Accelerator, extractor: FeatureExtractor, reference: Reference):
        super().__init__(accelerator, extractor)
        reference.check_extractor(extractor)
        self.reference, self.influence = reference, FrechetInfluence(reference)
        self.earlier: list[Population] = []  # around a mean of 0, the latest last

    def __call__(self, seen: list[Any], class_labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        features = torch.cat(seen)
        everyone = self.accelerator.gather(features)
        projected = self.influence.project(everyone)
        population = Population.of(projected)
        own = replace(population, mean=torch.zeros_like(population.mean))
        faded = [
            replace(one, count=one.count * FADED ** (len(self.earlier) - age)) for age, one in enumerate(self.earlier)
        ]
        spread = Population.pooled([*faded, own]).covariance
        centred = Population(population.count, population.mean, spread)
        rewards = -self.influence(projected, centred)
        rewards = rewards.clamp(*torch.quantile(rewards, rewards.new_tensor([CLIPPED, 1 - CLIPPED])))
        self.earlier = [*self.earlier, own][-EARLIER:]

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
