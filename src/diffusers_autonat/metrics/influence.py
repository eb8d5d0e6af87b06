"""What one image adds to a distance between sets of images.

A distance D is a function of a distribution. Moving a little of its mass to a point f changes D by the influence of f
(Hampel, 1974). So one number for each image tells how D varies with the draw of the images; and where a parameter x decides
their distribution, dD/dx is the derivative of their mean influence.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .references import Reference
from .statistics import FeatureBank, one_thread


MAX_DIRECTIONS = 256  # of features that are looked at; a covariance needs several images for each
BANK = 3  # earlier updates whose images help to know the covariance, which from one update is rough
FADED = 0.5  # what an image of an earlier update counts, for each update since
CLIPPED = 0.02  # share of the influences at either end that count no more than the next


@dataclass(frozen=True)
class Population:
    """Mean `[d]` and covariance `[d, d]`, float64, of the features of `count` images, which may count in part."""

    count: float
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

    def faded(self, updates: int) -> Population:
        """What its images tell so many updates later: how they vary around their own mean, and less with each."""
        return replace(self, count=self.count * FADED**updates, mean=torch.zeros_like(self.mean))

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


class Influence(Protocol):
    """A distance to a reference as a sum over images: what is asked of `FrechetInfluence` and of those of other distances."""

    def project(self, features: Tensor) -> Tensor: ...

    def of_update(self, features: Tensor, earlier: Sequence[Population] = ()) -> Tensor: ...

    def remembered(self, features: Tensor) -> Population | None: ...


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
        variances, directions = reference.principal
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

    def of_update(self, features: Tensor, earlier: Sequence[Population] = ()) -> Tensor:
        """
        Influence `[n]` of the images of an update, of which there are few, to be learned from.

        The mean is that of these images: with that of earlier ones what learns would run on in its old direction. Their
        covariance is pooled with that of earlier updates. A few images far from all others must not decide, so the ends count
        no more than what is `CLIPPED` from them.

        Args:
            features: Projected `[n, d]`.
            earlier: Remembered of up to `BANK` updates before, `faded`.
        """
        population = self.remembered(features)
        spread = Population.pooled([*earlier, population.faded(0)]).covariance
        return clipped(self(features, replace(population, covariance=spread)))

    def remembered(self, features: Tensor) -> Population:
        """What later updates need to know of the images of this one `[n, d]`."""
        return Population.of(features)


def clipped(effects: Tensor) -> Tensor:
    """Influences `[n]` whose ends count no more than what is `CLIPPED` from them."""
    return effects.clamp(*torch.quantile(effects, effects.new_tensor([CLIPPED, 1 - CLIPPED])))


class DistanceError(FeatureBank, ABC):
    """Standard error of a distance of the added features to a reference: how far another draw may lie from it.

    A distance of N images varies as the mean of their influences does, so its error is their standard deviation over the
    root of N (the delta method). Where each class is asked for equally often, differences between classes are counted and do
    not vary, so that the error is rather too large. Of two sets with the same noise the difference varies less than their errors say.

    Args:
        reference: As of the distance.
        kwargs: arguments of `torchmetrics.Metric`.

    Attributes:
        labels: what the value is called, of the standard Inception network and of others.
    """

    higher_is_better = False
    labels: tuple[str, str]

    def __init__(self, reference: Reference, **kwargs: Any):
        super().__init__(len(reference.mu), **kwargs)
        standard, other = self.labels
        self.label = standard if reference.is_standard_inception else other

    @abstractmethod
    def effects(self, features: Tensor) -> Tensor:
        """Influence `[n]` of images with these features `[n, D]` among themselves."""

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """`{label: error}`."""
        effects = self.effects(super().compute())
        return {self.label: effects.std() / len(effects) ** 0.5}


class FrechetError(DistanceError):
    """Of the Fréchet distance, see `DistanceError`."""

    labels = ("fid_error", "frechet_distance_error")

    def __init__(self, reference: Reference, **kwargs: Any):
        super().__init__(reference, **kwargs)
        self.influence = FrechetInfluence(reference, max_directions=len(reference.mu))

    def effects(self, features: Tensor) -> Tensor:
        projected = self.influence.project(features)
        return self.influence(projected, Population.of(projected))


def _pack(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _unpack(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64))
