"""Scores by a classifier's opinion: whether images are sure and diverse, and whether they are what was asked for.

Results are named after the network that made them: `inception_score` stands only for the standard Inception network,
others give `classifier_score`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


GRID = 2**30


class ClassifierScore(Metric):
    r"""Inception-style score `exp(mean KL(p(y|x) || p(y)))`, mean and standard deviation over splits, streamed.

    Per split it keeps the sums of the class probabilities and of their entropies, rounded to multiples of 2^-30: such
    sums are exact in float64 for a million images, so they do not depend on order. Which image belongs to which split
    is a fixed permutation of the image indices, so labels that repeat regularly do not gather in one split.

    Args:
        num_classes: number of logits K.
        num_images: how many images will be added.
        splits: number of splits, at most `num_images`.
        label: name of the result.
        kwargs: arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(
        self, num_classes: int, num_images: int, splits: int = 10, label: str = "classifier_score", **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.label = label
        splits = min(splits, num_images)
        shuffled = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))
        self.split_of_image = shuffled * splits // num_images
        zeros = torch.zeros(splits, dtype=torch.float64)
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum", persistent=True)
        self.add_state("entropy", zeros.clone(), dist_reduce_fx="sum", persistent=True)
        self.add_state("probability", zeros[:, None].repeat(1, num_classes), dist_reduce_fx="sum", persistent=True)

    def update(self, logits: Tensor, indices: Tensor) -> None:
        """Add logits `[B, K]` of the images with these indices `[B]`."""
        probability = logits.to(self.count.device).double().softmax(dim=-1)
        entropy = torch.special.entr(probability).sum(dim=-1)
        split = self.split_of_image[indices.cpu()].to(self.count.device)
        self.count.index_add_(0, split, torch.ones_like(entropy))
        self.entropy.index_add_(0, split, torch.round(entropy * GRID) / GRID)
        self.probability.index_add_(0, split, torch.round(probability * GRID) / GRID)

    def compute(self) -> dict[str, Tensor]:
        """`{label: mean, label_std: std}` over the splits."""
        if (self.count == 0).any():
            raise ValueError(
                f"Only {int(self.count.sum())} of {len(self.split_of_image)} announced images were added."
            )
        marginal = self.probability / self.count[:, None]
        information = torch.special.entr(marginal).sum(dim=-1) - self.entropy / self.count
        scores = information.exp()
        return {self.label: scores.mean(), f"{self.label}_std": scores.std(correction=int(len(scores) > 1))}


class ClassConsistency(Metric):
    """Share of images that the extractor's classifier recognises as the class they were asked to be.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        for name in ("correct", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum", persistent=True)

    def update(self, logits: Tensor, class_labels: Tensor) -> None:
        """Add logits `[B, K]` and the class ids `[B]` that were asked for."""
        self.correct += (logits.argmax(dim=-1) == class_labels.to(logits.device)).sum().to(self.correct.device)
        self.count += len(class_labels)

    def compute(self) -> dict[str, Tensor]:
        """`{"class_consistency": share}`."""
        return {"class_consistency": self.correct.double() / self.count}
