"""The metrics by name: how each is made and what it needs.

A new metric is a file with a `torchmetrics.Metric` and an entry in `METRICS`. Its `update` names what it wants of
`features` `[B, D]`, `logits` `[B, K]`, `class_labels` `[B]`, `prompts` and `indices` `[B]`, its `compute` returns values by name.
Results are named after the network that made them: `fid`, `kid` and `inception_score` stand only for the standard
Inception network, other networks give `frechet_distance`, `kernel_distance` and `classifier_score`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric, MetricCollection

from .distances import FrechetDistance, KernelDistance
from .extractors import FeatureExtractor
from .influence import FrechetError
from .kernel_influence import KernelError
from .manifold import NEAREST_K, ManifoldScores
from .per_class import RECOGNISED, ClassRecognition
from .r_precision import RPrecision
from .references import Reference
from .scores import ClassConsistency, ClassifierScore
from .statistics import FeatureBank, warn_if_rank_deficient


SECOND = "second_"  # before the names of what a second extractor gives, which no search and no reward sees
# What names begin with that stand for the standard Inception network alone, and the same by other networks.
STANDARD = ("fid", "kid", "inception_score")
OTHER = ("frechet_distance", "kernel_distance", "classifier_score")


@dataclass(frozen=True)
class RegisteredMetric:
    """A metric as the evaluator, the command line and the comparison of reports know it.

    Args:
        build: makes it from the extractor, the number of images there will be and the reference.
        values: names of its values, up to a colon where there is one for each of something.
        needs_reference: it compares with a reference, and `needs_features` with kept rows of its features.
        needs_classifier: the extractor has to give logits, and for `needs_class_labels` those of the classes that
            images are asked to be of.
        needs_prompts: images have to be asked for by texts, and the extractor to have a text tower.
        needs_covariance: fewer images than features are too few for it.
        least_images: with fewer it cannot be computed.
        depends_on_number: whether its value drifts with the number of images, so that other numbers do not compare.
    """

    build: Callable[[FeatureExtractor, int, Any], Metric]
    values: tuple[str, ...]
    needs_reference: bool = False
    needs_features: bool = False
    needs_classifier: bool = False
    needs_class_labels: bool = False
    needs_prompts: bool = False
    needs_covariance: bool = False
    least_images: int = 2
    depends_on_number: bool = True

    def values_by(self, extractor: FeatureExtractor) -> tuple[str, ...]:
        """Those of `values` that it gives with this extractor."""
        foreign = OTHER if extractor.is_standard_inception else STANDARD
        return tuple(value for value in self.values if not value.startswith(foreign))


METRICS: dict[str, RegisteredMetric] = {
    "fid": RegisteredMetric(
        lambda extractor, num_images, reference: FrechetDistance(reference),
        values=("fid", "frechet_distance"),
        needs_reference=True,
        needs_covariance=True,
    ),
    "fid_error": RegisteredMetric(
        lambda extractor, num_images, reference: FrechetError(reference),
        values=("fid_error", "frechet_distance_error"),
        needs_reference=True,
        needs_covariance=True,
    ),
    "kid": RegisteredMetric(
        lambda extractor, num_images, reference: KernelDistance(reference),
        values=("kid", "kid_std", "kernel_distance", "kernel_distance_std"),
        needs_reference=True,
        needs_features=True,
    ),
    "kid_error": RegisteredMetric(
        lambda extractor, num_images, reference: KernelError(reference),
        values=("kid_error", "kernel_distance_error"),
        needs_reference=True,
        needs_features=True,
    ),
    "is": RegisteredMetric(
        lambda extractor, num_images, reference: ClassifierScore(
            extractor.num_classes or 0,
            num_images,
            label="inception_score" if extractor.is_standard_inception else "classifier_score",
        ),
        values=("inception_score", "inception_score_std", "classifier_score", "classifier_score_std"),
        needs_classifier=True,
    ),
    "prdc": RegisteredMetric(
        lambda extractor, num_images, reference: ManifoldScores(reference),
        values=("precision", "recall", "density", "coverage"),
        needs_reference=True,
        needs_features=True,
        least_images=NEAREST_K + 1,
    ),
    "class": RegisteredMetric(
        lambda extractor, num_images, reference: ClassConsistency(),
        values=("class_consistency",),
        needs_classifier=True,
        needs_class_labels=True,
        depends_on_number=False,
    ),
    "per_class": RegisteredMetric(
        lambda extractor, num_images, reference: ClassRecognition(extractor.id2label or {}),
        values=(RECOGNISED,),
        needs_classifier=True,
        needs_class_labels=True,
        depends_on_number=False,
    ),
    "r_precision": RegisteredMetric(
        lambda extractor, num_images, reference: RPrecision(extractor.text_tower),  # type: ignore[arg-type]
        values=("r_precision",),
        needs_prompts=True,
        depends_on_number=False,
    ),
}


def metric_of(value: str) -> RegisteredMetric | None:
    """The metric that gives a value of this name, by a first or a second extractor; None for one that is not known here."""
    name = value.partition(":")[0].removeprefix(SECOND)
    return next((metric for metric in METRICS.values() if name in metric.values), None)


def build_metrics(
    names: Sequence[str], extractor: FeatureExtractor, num_images: int, reference: Reference | None = None
) -> MetricCollection:
    """The metrics to compute, ready for `update(features=, logits=, class_labels=, indices=)`; each takes what it needs.

    Everything that cannot work is an error here, before the first image.

    Args:
        names: some of `METRICS`.
        extractor: what makes the features and logits.
        num_images: how many images there will be on all processes together.
        reference: for those that compare with one.
    """
    if not names or not set(names) <= set(METRICS):
        raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {', '.join(names) or 'none'}.")
    for name in names:
        metric = METRICS[name]
        if metric.needs_reference and reference is None:
            raise ValueError(f"{name} has to compare with a reference: give one.")
        if metric.needs_classifier and extractor.num_classes is None:
            raise ValueError(f"{name} needs an image classifier; {extractor.name} gives features only.")
        if metric.needs_class_labels and extractor.id2label is None:
            raise ValueError(f"{name} needs a classifier of the classes asked for; {extractor.name} has others.")
        if metric.needs_prompts and extractor.text_tower is None:
            raise ValueError(
                f"{name} needs a network that reads texts too, a CLIP or what train_text_judge.py makes; {extractor.name} has "
                "no text tower: set extractor.text_tower = TextTower(...)."
            )
    if reference is not None and any(METRICS[name].needs_reference for name in names):
        reference.check_extractor(extractor)
    metrics = {name: METRICS[name].build(extractor, num_images, reference) for name in METRICS if name in names}
    # One bank of features serves all metrics that keep nothing else.
    banks = [name for name, metric in metrics.items() if type(metric).update is FeatureBank.update]
    alone = [[name] for name in metrics if name not in banks]
    return MetricCollection(metrics, compute_groups=[banks, *alone] if banks else alone)


def check_num_images(names: Sequence[str], num_images: int, num_features: int) -> None:
    """Before the first image: an error or a warning where these metrics need more images than there will be.

    Args:
        names: as for `build_metrics`.
        num_images: how many images there will be; `num_features`: width D of the features.
    """
    demanding = max(names, key=lambda name: METRICS[name].least_images)
    least = METRICS[demanding].least_images
    if num_images < least:
        raise ValueError(f"{num_images} image(s) are too few: {demanding} needs at least {least}.")
    if any(METRICS[name].needs_covariance for name in names):
        warn_if_rank_deficient(num_images, num_features)
