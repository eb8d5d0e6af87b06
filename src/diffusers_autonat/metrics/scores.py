"""Scores of generated images, from classifier score to coverage, and the labels that images are asked for.

`build_metrics` puts them together with the distances. Results are named after the network that made them: `fid`, `kid`
and `inception_score` stand only for the standard Inception network, other networks give `frechet_distance`,
`kernel_distance` and `classifier_score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from .distances import FeatureBank, FrechetDistance, KernelDistance, warn_if_rank_deficient


if TYPE_CHECKING:
    from .extractors import FeatureExtractor
    from .references import Reference

METRIC_NAMES = ("fid", "kid", "is", "prdc", "class")
GRID = 2**30
NEAREST_K = 5  # as in the paper on density and coverage


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

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits `[B, K]` and the class ids `[B]` that were asked for."""
        self.correct += (logits.argmax(dim=-1) == labels.to(logits.device)).sum().to(self.correct.device)
        self.count += len(labels)

    def compute(self) -> dict[str, Tensor]:
        """`{"class_consistency": share}`."""
        return {"class_consistency": self.correct.double() / self.count}


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


def build_metrics(
    names: Sequence[str], extractor: FeatureExtractor, num_images: int, reference: Reference | None = None
) -> MetricCollection:
    """The metrics to compute, ready for `update(features=, logits=, labels=, indices=)`; each takes what it needs.

    Everything that cannot work is an error here, before the first image.

    Args:
        names: some of `fid`, `kid`, `is`, `prdc` and `class`.
        extractor: what makes the features and logits.
        num_images: how many images there will be on all processes together.
        reference: what `fid`, `kid` and `prdc` compare with.
    """
    wanted = set(names)
    if not wanted or not wanted <= set(METRIC_NAMES):
        raise ValueError(f"metrics must be some of {', '.join(METRIC_NAMES)}, got {', '.join(names) or 'none'}.")
    metrics: dict[str, Metric] = {}
    if wanted & {"fid", "kid", "prdc"}:
        if reference is None:
            raise ValueError("fid, kid and prdc compare with a reference: give one.")
        reference.check_extractor(extractor)
        for name, metric in (("fid", FrechetDistance), ("kid", KernelDistance), ("prdc", ManifoldScores)):
            if name in wanted:
                metrics[name] = metric(reference)
    if wanted & {"is", "class"}:
        if extractor.num_classes is None:
            raise ValueError(f"is and class need an image classifier; {extractor.name} gives features only.")
        if "is" in wanted:
            label = "inception_score" if extractor.is_standard_inception else "classifier_score"
            metrics["is"] = ClassifierScore(extractor.num_classes, num_images, label=label)
        if "class" in wanted:
            if extractor.id2label is None:
                raise ValueError(f"class needs a classifier of the classes asked for; {extractor.name} has others.")
            metrics["class"] = ClassConsistency()
    # One bank of features serves both of the metrics that need one.
    shared = [["kid", "prdc"]] if wanted >= {"kid", "prdc"} else []
    alone = [[name] for name in metrics if not any(name in group for group in shared)]
    return MetricCollection(metrics, compute_groups=shared + alone)


def check_num_images(names: Sequence[str], num_images: int, num_features: int) -> None:
    """Before the first image: an error or a warning where these metrics need more images than there will be.

    Args:
        names: as for `build_metrics`.
        num_images: how many images there will be; `num_features`: width D of the features.
    """
    least, who = (NEAREST_K + 1, "precision to coverage need") if "prdc" in names else (2, "an evaluation needs")
    if num_images < least:
        raise ValueError(f"{num_images} image(s) are too few: {who} at least {least}.")
    if "fid" in names:
        warn_if_rank_deficient(num_images, num_features)


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
