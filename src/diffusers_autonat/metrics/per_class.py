"""Which classes are recognised, and which are not: the shares that the consistency over all images is the mean of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


RECOGNISED = "recognised"


class ClassRecognition(Metric):
    """Share of the images of each class that the extractor's classifier recognises as that class.

    Args:
        id2label: the classifier's names by class id.
        kwargs: arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, id2label: dict[int, str], **kwargs: Any):
        super().__init__(**kwargs)
        self.id2label = id2label
        for name in ("correct", "count"):
            self.add_state(name, torch.zeros(len(id2label), dtype=torch.int64), dist_reduce_fx="sum", persistent=True)

    def update(self, logits: Tensor, class_labels: Tensor) -> None:
        """Add logits `[B, K]` and the class ids `[B]` that were asked for."""
        labels = class_labels.to(self.count.device)
        correct = (logits.argmax(dim=-1) == class_labels.to(logits.device)).to(self.count.device)
        self.count += torch.bincount(labels, minlength=len(self.count))
        self.correct += torch.bincount(labels[correct], minlength=len(self.count))

    def compute(self) -> dict[str, Tensor]:
        """`{"recognised: Coat": share}`; classes that nothing was asked of are left out."""
        shares = self.correct.double() / self.count
        return {
            f"{RECOGNISED}: {name}": shares[label] for label, name in self.id2label.items() if self.count[label] > 0
        }
