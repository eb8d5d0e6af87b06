"""What one image adds to a distance between sets of images: the reward of an image that has a strategy of its own.

A distance D is a function of a distribution. Moving a little of its mass to a point f changes D by the influence of f
(Hampel, 1974), so for images whose distribution a parameter x decides, dD/dx is the derivative of their mean influence:
one number for each image tells what a distance of many images would.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import Reference
from ..metrics.statistics import one_thread


MAX_DIRECTIONS = 256  # of features that are looked at; a covariance needs several images for each


@dataclass(frozen=True)
class Population:
    """Mean `[d]` and covariance `[d, d]`, float64, of the features of `count` images."""

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Population:
        """Of features `[n, d]`."""
        features = features.double()
        return cls(len(features), features.mean(dim=0), features.T.cov(correction=0).view(features.shape[1], -1))

    @classmethod
    def pooled(cls, populations: Sequence[Population]) -> Population:
        """All images of several populations as one."""
        count = sum(population.count for population in populations)
        mean = torch.stack([p.count / count * p.mean for p in populations]).sum(dim=0)
        second = torch.stack([p.count / count * (p.covariance + torch.outer(p.mean, p.mean)) for p in populations])
        return cls(count, mean, second.sum(dim=0) - torch.outer(mean, mean))

    def to_json(self) -> dict[str, Any]:
        """As JSON data, in float32: about 3 d^2 bytes."""
        upper = self.covariance[tuple(torch.triu_indices(*self.covariance.shape))]
        return {"count": self.count, "mean": _pack(self.mean), "covariance": _pack(upper)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Population:
        mean = _unpack(values["mean"])
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        rows, columns = torch.triu_indices(*covariance.shape)
        covariance[rows, columns] = covariance[columns, rows] = _unpack(values["covariance"])
        return cls(values["count"], mean, covariance)


class FrechetInfluence:
    r"""
    Influence on the Fréchet distance to a reference, in its principal directions.

    With the reference's mean and covariance \( \mu_r, S_r \), the population's \( \mu, S \), and
    \( A = S_r^{1/2} (S_r^{1/2} S S_r^{1/2})^{-1/2} S_r^{1/2} \), an image with features f adds

        2 (mu - mu_r).(f - mu) + (f - mu)^T (I - A) (f - mu)

    up to what is the same for all images.

    Args:
        reference: Real images.
        max_directions: Of the largest variance among the reference's features; those beyond are not looked at.
    """

    def __init__(self, reference: Reference, max_directions: int = MAX_DIRECTIONS):
        with one_thread():
            variances, directions = torch.linalg.eigh(reference.sigma.double())
        self.directions = directions[:, -max_directions:]  # [D, d]
        self.variances = variances[-max_directions:].clamp(min=0)  # [d]
        self.mean = reference.mu.double() @ self.directions  # [d]

    def project(self, features: Tensor) -> Tensor:
        """Features `[n, D]` to `[n, d]`, float64, on the CPU."""
        return features.double().cpu() @ self.directions

    def __call__(self, features: Tensor, population: Population) -> Tensor:
        """Influence `[n]` of projected features `[n, d]` on the distance of `population`, to be made small."""
        root = self.variances.sqrt()
        with one_thread():
            values, vectors = torch.linalg.eigh(root[:, None] * population.covariance * root)
        # Directions in which the population does not vary say nothing about how it should.
        known = values > 1e-10 * values[-1]
        inverse_root = torch.where(known, values.clamp(min=1e-300).rsqrt(), 0.0)
        half = root[:, None] * vectors * inverse_root.sqrt()  # A = half half^T
        moved = features - population.mean
        towards = 2 * moved @ (population.mean - self.mean)
        return towards + moved.square().sum(dim=1) - (moved @ half).square().sum(dim=1)


@dataclass(frozen=True)
class Effects:
    """How a reward depends on the noise of P parameters: in units of the noise, each `[P]`, float64.

    Args:
        slopes: First derivatives.
        slope_errors: Their standard errors.
        weight: How many updates they are of, where earlier ones count less.
    """

    slopes: Tensor
    slope_errors: Tensor
    weight: float = 1.0

    @classmethod
    def of_pairs(cls, noise: Tensor, rewards: Tensor) -> Effects:
        """
        Regress on noise in antithetic pairs, whose difference holds no constant, class or even power of it.

        Args:
            noise: Of the first image of each pair `[n, P]`; the second has its negative.
            rewards: Of both `[n, 2]`.
        """
        noise, difference = noise.double(), (rewards[:, 0] - rewards[:, 1]).double() / 2
        inverse = torch.linalg.pinv(noise.T @ noise, hermitian=True)
        slopes = inverse @ (noise.T @ difference)
        variance = (difference - noise @ slopes).square().sum() / max(len(noise) - noise.shape[1], 1)
        return cls(slopes, (variance * inverse.diagonal()).clamp(min=0).sqrt())

    @classmethod
    def mean_of(cls, effects: Sequence[Effects]) -> Effects:
        """Of batches of equal size."""
        slopes = torch.stack([one.slopes for one in effects])
        errors = torch.stack([one.slope_errors for one in effects])
        return cls(slopes.mean(0), errors.square().mean(0).div(len(effects)).sqrt())

    def scaled(self, factor: float) -> Effects:
        """In another unit of the parameters."""
        return Effects(factor * self.slopes, factor * self.slope_errors, self.weight)

    def remembered(self, now: Effects, memory: float) -> Effects:
        """The average of `now` and of this, whose weight is `memory` times what it was."""
        old = memory * self.weight
        total = now.weight + old
        slopes = (now.weight * now.slopes + old * self.slopes) / total
        errors = torch.hypot(now.weight * now.slope_errors, old * self.slope_errors) / total
        return Effects(slopes, errors, total)

    @property
    def certainty(self) -> Tensor:
        """Slopes in units of their errors `[P]`; 0 where nothing is known."""
        return (self.slopes / self.slope_errors).nan_to_num(0.0, 0.0, 0.0)

    def to_json(self) -> dict[str, list[float]]:
        return {"slopes": self.slopes.tolist(), "slope_errors": self.slope_errors.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> Effects:
        return cls(**{name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})


def _pack(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _unpack(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64))
