"""What is kept of the features of a set of images: sums that are exact, or the features themselves.

The same images must give the same number in every batch size and on any number of processes. So nothing here depends
on the order in which it arrives: `FeatureStatistics` keeps sums that are *exact*, and `FeatureBank` sorts what it kept
by image index before anything is computed. torchmetrics' FrechetInceptionDistance and KernelInceptionDistance depend
on order and on the global random state, and cannot take a reference's stored statistics.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


COARSE, FINE = 2**8, 2**24
MAX_ROWS = 50_000  # the largest set that kernel and neighbour statistics are usually given for


class FeatureStatistics(Metric):
    r"""Mean and covariance of a stream of features, in float64 and in memory that does not grow with the stream.

    A feature is rounded to a multiple of 2^-24 (float32's own resolution just below 1) and split into `high`, a
    multiple of 2^-8, and `low`, the rest. Their products are whole multiples of a power of two, and while a sum stays
    below 2^53 such multiples, float64 adds without rounding: for up to 8 million images whose root mean squares stay
    below 50. Exact sums do not depend on batches, on the order of images, on threads or on processes. Beyond the limit
    they become ordinary float64 sums, which differ in the last digits.

    Args:
        num_features: width D of the features.
        kwargs: arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_features: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum", persistent=True)
        self.add_state("total", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum", persistent=True)
        for name in ("high_high", "high_low", "low_low"):
            products = torch.zeros(num_features, num_features, dtype=torch.float64)
            self.add_state(name, products, dist_reduce_fx="sum", persistent=True)

    def update(self, features: Tensor) -> None:
        """Add features `[B, D]` of any floating type."""
        features = features.to(self.total.device).double()
        high = torch.round(features * COARSE) / COARSE
        low = torch.round((features - high) * FINE) / FINE
        self.count += len(features)
        self.total += (high + low).sum(dim=0)
        self.high_high += high.T @ high
        self.high_low += high.T @ low
        self.low_low += low.T @ low

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean `[D]` and unbiased covariance `[D, D]` of everything added on all processes."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 images, got {int(self.count)}.")
        mean = self.total / self.count
        if not mean.isfinite().all():
            raise ValueError("The features contain NaN or infinite values: check the images and the extractor.")
        second = self.high_high + self.high_low + self.high_low.T + self.low_low
        return mean, (second - self.count * torch.outer(mean, mean)) / (self.count - 1)


class FeatureBank(Metric):
    """Features kept in float32 for kernel and neighbour statistics: 4 D bytes an image.

    Only the images with the first `MAX_ROWS` indices are kept, so that memory does not grow without bound; being the
    images of a shorter run they are no special ones. At the end every process holds the features of all.

    Args:
        num_features: width D of the features.
        kwargs: arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_features: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_features = num_features
        self.add_state("features", [], dist_reduce_fx="cat", persistent=True)
        self.add_state("indices", [], dist_reduce_fx="cat", persistent=True)

    def update(self, features: Tensor, indices: Tensor) -> None:
        """Add features `[B, D]` of the images with these indices `[B]`; every image has one index in the whole run."""
        kept = indices.cpu() < MAX_ROWS
        if not kept.all():
            features, indices = features[kept.to(features.device)], indices[kept.to(indices.device)]
        self.features.append(features.to(self.device, torch.float32))
        self.indices.append(indices.to(self.device, torch.int64))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes; one that was given no image takes part with an empty batch of the right type."""
        if not self.features:
            self.update(torch.empty(0, self.num_features), torch.empty(0))
        super().sync(*args, **kwargs)

    def compute(self) -> Any:
        """Features `[N, D]` of all processes in the order of their indices, at most `MAX_ROWS`."""
        indices, order = dim_zero_cat(self.indices).sort()
        repeated = indices[1:][indices.diff() == 0]
        if len(repeated):
            raise ValueError(f"Image {int(repeated[0])} was added more than once, {len(repeated)} repetitions in all.")
        return dim_zero_cat(self.features)[order]


def statistics_device(device: torch.device) -> torch.device:
    """Where the statistics of an extractor on this device are kept: there, or on the CPU if it has no float64 (Apple)."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def one_thread() -> Iterator[None]:
    """Run LAPACK on one thread: the last digits of an eigendecomposition depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def covariance_root(covariance: Tensor) -> Tensor:
    """Factor `F` `[D, rank]` with `F F^T = covariance`; eigenvalues within rounding error of zero are dropped.

    Raises:
        ValueError: the matrix has a clearly negative eigenvalue, so it is no covariance.
    """
    with one_thread():
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance.double().cpu())
    largest = eigenvalues[-1].clamp(min=0)
    if eigenvalues[0] < -1e-3 * largest - 1e-12:
        raise ValueError(f"Not a covariance: its eigenvalues reach from {eigenvalues[0]:.3g} to {largest:.3g}.")
    keep = eigenvalues > len(eigenvalues) * torch.finfo(torch.float64).eps * largest
    return eigenvectors[:, keep] * eigenvalues[keep].sqrt()


def warn_if_rank_deficient(num_images: int | None, num_features: int, what: str = "images") -> None:
    """Say how many images a covariance of so many features needs, if these (None: unknown) are too few."""
    if num_images is not None and num_images <= num_features:
        warnings.warn(
            f"The covariance of {num_features} features is rank-deficient with {num_images} {what}: the distance is "
            f"biased upwards. Use at least {num_features + 1} images, better {10 * num_features}.",
            stacklevel=3,
        )
