"""A guard against reward hacking: a policy that is rewarded by one extractor is watched by another, and by its classes.

AdaNAT (ECCV 2024) and AdaGen (arXiv:2603.06993) both found that a policy learns to please what measures it. So fixed
images are validated now and then: the distance that the reward works on, the distance by an extractor that no reward sees,
and the share of images that are recognised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..metrics import SECOND, Evaluator, FeatureExtractor, MetricSuite, Reference


DISTANCE, ERROR, CONSISTENCY = "distance", "error", "class_consistency"
MARGIN = 0.02  # consistency that may be lost where no floor is named


class PolicyValidation:
    """
    Measures a pipeline with its policy on the same images each time: `distance`, its standard `error`, and
    `class_consistency` where the extractor knows the pipeline's classes; `second_` of each by the second extractor.

    Args:
        extractor, reference: Of the reward. second: Another pair, if there is one.
        num_images, seed: Of the images. label_policy, batch_size: See `metrics.Evaluator`.

    Raises:
        ValueError: a reference was made by another extractor.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        reference: Reference,
        second: tuple[FeatureExtractor, Reference] | None,
        num_images: int,
        seed: int,
        label_policy: str = "balanced",
        batch_size: int = 128,
    ):
        for one, of_it in filter(None, [(extractor, reference), second]):
            of_it.check_extractor(one)
        self.extractor, self.reference, self.second = extractor, reference, second
        self.num_images, self.seed = num_images, seed
        self.label_policy, self.batch_size = label_policy, batch_size

    def __call__(self, pipeline: Any) -> dict[str, float]:
        num_classes = pipeline.transformer.config.num_classes
        first = MetricSuite.of_distance(self.extractor, self.reference, num_classes)
        evaluator = Evaluator(
            pipeline, self.extractor, self.reference, first.metrics, self.label_policy, self.batch_size, progress=False,
            second=None if self.second is None else MetricSuite.of_distance(*self.second, num_classes),
        )  # fmt: skip
        return _named(evaluator(self.num_images, self.seed))


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """By one name for whatever network."""
    names = {"fid": DISTANCE, "frechet_distance": DISTANCE, "fid_error": ERROR, "frechet_distance_error": ERROR}
    names |= {SECOND + name: SECOND + ours for name, ours in names.items()}
    return {names.get(name, name): value for name, value in values.items()}


class RewardGuard:
    """
    Keeps the best policy of all validations, and says when to stop.

    The best is the one of the smallest product of both distances among those that keep the class consistency and whose second
    distance is not above the smallest so far by more than the noise of both: what the reward's distance gains at the cost
    of the other does not count.

    It stops when in `patience` validations in a row the reward's distance is below what it was where the second was smallest,
    and the second above that by more than the noise of both; or as soon as the class consistency, of the second
    extractor if that knows the classes, is below the floor.

    Args:
        patience: Validations in a row.
        least_consistency: The floor; by default 0.02 below the first validation's.
    """

    def __init__(self, patience: int = 3, least_consistency: float | None = None):
        self.patience, self.least_consistency = patience, least_consistency
        self.validations: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}  # weights
        self.best_values: dict[str, float] = {}
        self.stopped: str | None = None

    def add(self, step: int, values: Mapping[str, float], policy: torch.nn.Module) -> str | None:
        """
        Another validation, of the policy after update `step`.

        Returns:
            Why to stop, if it is time.
        """
        row = {"step": step, **values}
        self.validations.append(row)
        is_kept = self._keeps_classes(row) and not self._is_worse(row)
        if not self.best or (is_kept and score(row) < score(self.best_values)):
            self.best_values = row
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()}
        self.stopped = self._lost_classes(row) or self._hacked()
        return self.stopped

    def _floor(self) -> float:
        if self.least_consistency is not None:
            return self.least_consistency
        return _consistency(self.validations[0]) - MARGIN

    def _keeps_classes(self, row: Mapping[str, float]) -> bool:
        return not _consistency(row) < self._floor()

    def _least(self) -> Mapping[str, float]:
        """The validation of the smallest second distance."""
        return min(self.validations, key=lambda row: row[SECOND + DISTANCE])

    def _is_worse(self, row: Mapping[str, float]) -> bool:
        """By the second distance, and by more than noise."""
        if SECOND + DISTANCE not in row:
            return False
        least = self._least()
        noise = math.hypot(row[SECOND + ERROR], least[SECOND + ERROR])
        return row[SECOND + DISTANCE] - least[SECOND + DISTANCE] > noise

    def _lost_classes(self, row: Mapping[str, float]) -> str | None:
        if self._keeps_classes(row):
            return None
        return (
            f"the class consistency fell to {_consistency(row):.1%}, below {self._floor():.1%} (update {row['step']})"
        )

    def _hacked(self) -> str | None:
        latest = self.validations[-self.patience :]
        if SECOND + DISTANCE not in latest[-1] or len(latest) < self.patience:
            return None
        least = self._least()
        if not all(self._is_worse(row) and row[DISTANCE] < least[DISTANCE] for row in latest):
            return None
        now = latest[-1]
        return (
            f"the reward's distance fell from {least[DISTANCE]:.3f} (update {least['step']}) to {now[DISTANCE]:.3f} while the "
            f"second extractor's rose from {least[SECOND + DISTANCE]:.3f} to {now[SECOND + DISTANCE]:.3f}, more than its "
            f"noise in {self.patience} validations in a row (update {now['step']})"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "validations": self.validations,
            "best": self.best,
            "best_values": self.best_values,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.validations, self.best = list(state["validations"]), dict(state["best"])
        self.best_values, self.stopped = dict(state["best_values"]), state["stopped"]


def score(row: Mapping[str, float]) -> float:
    """Of a validation, the lower the better: both distances multiplied."""
    return row[DISTANCE] * row.get(SECOND + DISTANCE, 1.0)


def _consistency(row: Mapping[str, float]) -> float:
    """NaN where no extractor knows the classes."""
    return row.get(SECOND + CONSISTENCY, row.get(CONSISTENCY, math.nan))
