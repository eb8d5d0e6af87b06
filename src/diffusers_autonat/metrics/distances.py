"""Fréchet and kernel distance between the features of two sets of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from .references import Reference
from .statistics import FeatureBank, FeatureStatistics, covariance_root, one_thread, warn_if_rank_deficient


def frechet_distance(mean_1: Tensor, root_1: Tensor, mean_2: Tensor, root_2: Tensor) -> Tensor:
    r"""Fréchet distance of two Gaussians given by means `[D]` and covariance roots `[D, rank]` (`covariance_root`).

        d = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

    With `S = F F^T` the last trace is the sum of the singular values of `F1^T F2`. That is real and stable for any
    rank, where the square root of the product `S1 S2` turns complex or fails.
    """
    mean_1, mean_2 = mean_1.double().cpu(), mean_2.double().cpu()
    with one_thread():
        cross = torch.linalg.svdvals(root_1.T @ root_2).sum()
    spread = root_1.square().sum() + root_2.square().sum() - 2 * cross
    return ((mean_1 - mean_2).square().sum() + spread).clamp(min=0)


class FrechetDistance(FeatureStatistics):
    """Fréchet distance of the added features to a reference; `fid` only where the network is the standard one.

    Args:
        reference: its mean and covariance are the other Gaussian.
        kwargs: arguments of `torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(self, reference: Reference, **kwargs: Any):
        super().__init__(len(reference.mu), **kwargs)
        warn_if_rank_deficient(reference.num_images, len(reference.mu), "reference images")
        self.label = "fid" if reference.is_standard_inception else "frechet_distance"
        self.reference_mean, self.reference_root = reference.mu, reference.root

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """`{"frechet_distance": d}`, or `{"fid": d}`."""
        mean, covariance = super().compute()
        warn_if_rank_deficient(int(self.count), len(mean))
        root = covariance_root(covariance)
        return {self.label: frechet_distance(mean, root, self.reference_mean, self.reference_root)}


def kernel_distance(
    features: Tensor, reference: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Squared maximum mean discrepancy with the kernel `(x y / D + 1)^3`: unbiased, also for few images.

    Mean and standard deviation over random subsets, as KID is usually given, but in float64 and from a generator of
    its own. The subsets shrink to the smaller set where that has fewer than `subset_size` rows.

    Args:
        features: `[N, D]`; `reference`: `[M, D]`.
        subsets: number of subsets; `subset_size`: rows of each; `seed`: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    subset_size = min(subset_size, len(features), len(reference))
    if subset_size < 2:
        raise ValueError(
            f"A kernel distance needs at least 2 images a side, got {len(features)} and {len(reference)}."
        )
    values = []
    for _ in range(subsets):
        rows = [torch.randperm(len(x), generator=generator)[:subset_size] for x in (reference, features)]
        real, fake = (x[r.to(x.device)].double() for x, r in zip((reference, features), rows))
        values.append(poly_mmd(real, fake))
    return torch.stack(values).mean(), torch.stack(values).std(correction=0)


class KernelDistance(FeatureBank):
    """Kernel distance of the added features to a reference; `kid` only where the network is the standard one.

    Args:
        reference: must hold features (`load_reference(..., feature_rows=...)`).
        kwargs: arguments of `torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(self, reference: Reference, **kwargs: Any):
        super().__init__(len(reference.mu), **kwargs)
        self.label = "kid" if reference.is_standard_inception else "kernel_distance"
        self.reference_features = reference.require_features("The kernel distance", 2)

    def compute(self) -> dict[str, Tensor]:
        """`{"kernel_distance": mean, "kernel_distance_std": std}` over the subsets, or `kid` and `kid_std`."""
        features = super().compute()
        mean, std = kernel_distance(features, self.reference_features.to(features.device))
        return {self.label: mean, f"{self.label}_std": std}
