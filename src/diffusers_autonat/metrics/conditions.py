"""What images are asked to be: a rule (`Conditions`), and what it says for N images (`Requests`).

The evaluator hands on what it is told here and knows no kind of condition. Another kind is another subclass of
`Conditions`, as that of prompts is (`captions`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .references import Reference


@dataclass(frozen=True)
class Requests:
    """What each of N images is asked to be.

    Args:
        num_images: N.
        arguments: of the pipeline's call, by name: a value for each image.
        class_labels: class of each image `[N]`, for the metrics that compare with it; None where images have none.
    """

    num_images: int
    arguments: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    class_labels: Tensor | None = None

    @classmethod
    def of_classes(cls, class_labels: Tensor) -> Requests:
        """Images of classes `[N]`."""
        return cls(len(class_labels), {"class_labels": class_labels.tolist()}, class_labels)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, indices: Tensor) -> Requests:
        """Those of some images `[B]`."""
        chosen = indices.tolist()
        arguments = {name: [values[i] for i in chosen] for name, values in self.arguments.items()}
        return Requests(
            len(chosen), arguments, None if self.class_labels is None else self.class_labels[indices.cpu()]
        )


class Conditions(ABC):
    """A rule that says what images are asked to be.

    Attributes:
        num_classes: number of the classes that images are asked to be of; None where they are asked for otherwise.
    """

    num_classes: int | None = None

    @abstractmethod
    def requests(self, num_images: int, seed: int) -> Requests:
        """What `num_images` images are asked to be; that of the first n does not depend on their number."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a report says about it among `images`, as JSON data."""


class ClassConditions(Conditions):
    """Images of classes, chosen by one of `LABEL_POLICIES`.

    Args:
        num_classes: of the pipeline.
        reference: what generated images are compared with, if anything.
    """

    policy: str

    def __init__(self, num_classes: int, reference: Reference | None = None):
        self.num_classes: int = num_classes
        self.reference = reference

    @abstractmethod
    def labels(self, num_images: int, seed: int) -> Tensor:
        """Class ids `[N]`; the first n do not depend on N."""

    def requests(self, num_images: int, seed: int) -> Requests:
        return Requests.of_classes(self.labels(num_images, seed))

    def describe(self) -> dict[str, Any]:
        return {"label_policy": self.policy}


class BalancedClasses(ClassConditions):
    """As many images of every class, see `balanced_labels`."""

    policy = "balanced"

    def labels(self, num_images: int, seed: int) -> Tensor:
        return balanced_labels(num_images, self.num_classes)


class UniformClasses(ClassConditions):
    """Every image of a class by chance, see `uniform_labels`."""

    policy = "uniform"

    def labels(self, num_images: int, seed: int) -> Tensor:
        return uniform_labels(num_images, self.num_classes, seed)


class ReferenceClasses(ClassConditions):
    """Classes in the proportions of the reference's images, see `reference_labels`.

    Raises:
        ValueError: there is no reference; and later, it holds no labels or classes that the pipeline does not have.
    """

    policy = "reference"
    reference: Reference

    def __init__(self, num_classes: int, reference: Reference | None = None):
        if reference is None:
            raise ValueError("label_policy 'reference' takes the labels of a reference: give one.")
        super().__init__(num_classes, reference)

    def labels(self, num_images: int, seed: int) -> Tensor:
        labels = reference_labels(num_images, self.reference)
        if labels.max() >= self.num_classes:
            raise ValueError(
                f"{self.reference.source} holds class {int(labels.max())}, the pipeline's last is {self.num_classes - 1}."
            )
        return labels


LABEL_POLICIES: dict[str, type[ClassConditions]] = {
    rule.policy: rule for rule in (BalancedClasses, UniformClasses, ReferenceClasses)
}


def class_conditions(label_policy: str, num_classes: int, reference: Reference | None = None) -> ClassConditions:
    """The classes of images by the name of the rule.

    Raises:
        ValueError: there is no rule of that name, or it needs a reference.
    """
    if label_policy not in LABEL_POLICIES:
        raise ValueError(f"label_policy must be one of {', '.join(LABEL_POLICIES)}, got {label_policy!r}.")
    return LABEL_POLICIES[label_policy](num_classes, reference)


def balanced_labels(num_images: int, num_classes: int) -> Tensor:
    """Labels `[N]` whose class counts differ by at most one; more images only add labels at the end.

    A stride near the golden section of the number of classes visits every class once a round, and far-apart classes
    first: where classes are ordered by kind, as in ImageNet, few images still cover all kinds.
    """
    stride = round(num_classes * (math.sqrt(5) - 1) / 2) or 1
    while math.gcd(stride, num_classes) > 1:
        stride += 1
    return torch.arange(num_images) * stride % num_classes


def uniform_labels(num_images: int, num_classes: int, seed: int = 0) -> Tensor:
    """Labels `[N]` drawn independently and uniformly; more images only add labels at the end."""
    return torch.randint(num_classes, (num_images,), generator=torch.Generator().manual_seed(seed))


def reference_labels(num_images: int, reference: Reference) -> Tensor:
    """Labels `[N]` in the proportions of the reference's own, at every N; more images only add labels at the end.

    The j-th image of a class with n images comes at (j + 1/2) / n of the way: Sainte-Lague's apportionment.
    """
    if reference.labels is None:
        raise ValueError(f"The reference {reference.source} holds no labels: use balanced or uniform ones.")
    labels = reference.labels.sort().values
    size = labels.bincount()
    first = size.cumsum(0) - size
    place = (torch.arange(len(labels)) - first[labels] + 0.5).double() / size[labels]
    return labels[place.argsort(stable=True)][torch.arange(num_images) % len(labels)]
