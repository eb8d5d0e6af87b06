"""Scores that compare the neighbourhoods of features: precision, recall, density and coverage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .references import Reference
from .statistics import FeatureBank


NEAREST_K = 5  # as in the paper on density and coverage


def manifold_scores(features: Tensor, reference: Tensor, nearest_k: int = NEAREST_K) -> dict[str, Tensor]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The manifold of a set is the union of balls around its points that reach to the k-th nearest neighbour in the set.
    Distances are computed in float64 and in slices, so memory grows with N and not with its square.

    Args:
        features: `[N, D]`; `reference`: `[M, D]`, best of similar size, since the scores depend on it.
        nearest_k: the k above.
    """
    fake, real = features.double(), reference.double()
    if min(len(fake), len(real)) <= nearest_k:
        raise ValueError(f"{nearest_k} neighbours need more than {nearest_k} images a side: {len(fake)}, {len(real)}.")
    fake_radius, real_radius = _neighbour_distance(fake, nearest_k), _neighbour_distance(real, nearest_k)
    balls_around_fake = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = torch.zeros(2, dtype=torch.int64, device=fake.device)
    for points, radius in zip(real.split(1000), real_radius.split(1000)):
        distance = torch.cdist(points, fake)  # [R, N]
        inside = distance < radius[:, None]
        balls_around_fake += inside.sum(dim=0)
        covered += inside.any(dim=1).sum()
        recalled += (distance < fake_radius).any(dim=1).sum()
    return {
        "precision": (balls_around_fake > 0).double().mean(),
        "recall": recalled.double() / len(real),
        "density": balls_around_fake.sum().double() / (nearest_k * len(fake)),
        "coverage": covered.double() / len(real),
    }


def _neighbour_distance(points: Tensor, nearest_k: int) -> Tensor:
    """Distance `[N]` of each point `[N, D]` to its k-th nearest other point."""
    radii = []
    for rows in torch.arange(len(points), device=points.device).split(1000):
        distance = torch.cdist(points[rows], points)
        distance[torch.arange(len(rows), device=points.device), rows] = torch.inf
        radii.append(distance.kthvalue(nearest_k, dim=1).values)
    return torch.cat(radii)


class ManifoldScores(FeatureBank):
    """Precision, recall, density and coverage of the added features against a reference (`manifold_scores`).

    Args:
        reference: must hold features (`load_reference(..., feature_rows=...)`).
        kwargs: arguments of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, reference: Reference, **kwargs: Any):
        super().__init__(len(reference.mu), **kwargs)
        self.reference_features = reference.require_features("Precision to coverage", NEAREST_K + 1)

    def compute(self) -> dict[str, Tensor]:
        """`{"precision": ..., "recall": ..., "density": ..., "coverage": ...}`."""
        features = super().compute()
        return manifold_scores(features, self.reference_features.to(features.device))
