"""What one image adds to the kernel distance between sets of images: its witness function (Gretton et al., JMLR 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

from .influence import DistanceError, Population, clipped
from .references import Reference


ROWS = 1024  # images compared with all others at once


class KernelInfluence:
    r"""
    Influence on the squared maximum mean discrepancy to a reference, with the kernel of the kernel distance,
    \( k(f, g) = (f \cdot g / D + 1)^3 \). With respect to a population P an image with features f adds

        2 (mean over P of k(f, .) - mean over the reference of k(f, .))

    up to what is the same for all images.

    Args:
        reference: Must hold features (`load_reference(..., feature_rows=...)`).

    Raises:
        ValueError: it holds none.
    """

    def __init__(self, reference: Reference):
        self.reference = reference.require_features("The influence on a kernel distance", 2).double().cpu()

    def project(self, features: Tensor) -> Tensor:
        """Features `[n, D]` as they are, float64, on the CPU."""
        return features.double().cpu()

    def __call__(self, features: Tensor, population: Tensor) -> Tensor:
        """Influence `[n]` of features `[n, D]` on the distance of a population `[m, D]`, to be made small."""
        return 2 * (_mean_kernel(features, population) - _mean_kernel(features, self.reference))

    def of_update(self, features: Tensor, earlier: Sequence[Population] = ()) -> Tensor:
        """
        Influence `[n]` of the images of an update, of which there are few, to be learned from.

        Each is compared with the others and not with itself, as in the unbiased distance. As with other influences the ends
        count no more than what is `CLIPPED` from them.

        Args:
            features: `[n, D]`.
            earlier: Of other influences; of this one nothing is remembered.
        """
        return clipped(self.among_others(features))

    def among_others(self, features: Tensor) -> Tensor:
        """Influence `[n]` of each of some images `[n, D]` on the distance of the others."""
        num_images, itself = len(features), (features.square().mean(dim=1) + 1) ** 3
        mean = (num_images * _mean_kernel(features, features) - itself) / (num_images - 1)
        return 2 * (mean - _mean_kernel(features, self.reference))

    def remembered(self, features: Tensor) -> None:
        """Nothing: the mean of the kernel over earlier images could not be had without all of their features."""


class KernelError(DistanceError):
    """Of the kernel distance, see `DistanceError`."""

    labels = ("kid_error", "kernel_distance_error")

    def __init__(self, reference: Reference, **kwargs: Any):
        super().__init__(reference, **kwargs)
        self.influence = KernelInfluence(reference)

    def effects(self, features: Tensor) -> Tensor:
        return self.influence.among_others(self.influence.project(features))


def _mean_kernel(features: Tensor, others: Tensor) -> Tensor:
    """Mean over `[m, D]` of the kernel with each of `[n, D]`."""
    return torch.cat([poly_kernel(rows, others).mean(dim=1) for rows in features.split(ROWS)])
