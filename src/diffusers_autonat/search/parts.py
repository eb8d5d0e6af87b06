"""A score of many images in parts that workers share: what is seen of the images of each part lies in the study.

Metrics are of all images of a strategy, so a part has no value. Its trial keeps the features of its images; whoever sees
that no part is missing measures the whole, which is the same as in one piece.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import safetensors.torch
from optuna.study import Study

from ..metrics import Evaluator
from ..metrics.evaluator import Seen
from .objective import STRATEGY, EvaluatorScore
from .workers import all_trials


PART_IMAGES = 512  # of a part, rounded up to whole calls of the pipeline
MOST_BYTES = 32 * 2**20  # of features of one strategy in a study; with more it is one part, of which nothing is kept
SEEN = "seen"  # trial user attribute: features of the images of a part
OF_EACH = "part_images"  # study user attribute: images of each part


@dataclass
class PartedScore(EvaluatorScore):
    """As `EvaluatorScore`, and also in parts.

    Args:
        evaluator: Generates and measures.
    """

    evaluator: Evaluator

    @property
    def part_images(self) -> int:
        """Images of a part: all of them where features are too many for a study."""
        suites = self.evaluator.suites.values()
        width = sum(s.extractor.num_features + s.needs_logits * (s.extractor.num_classes or 0) for s in suites)
        if 4 * width * self.num_images > MOST_BYTES:
            return self.num_images
        size = self.evaluator.extractor.batch_size
        return math.ceil(PART_IMAGES / size) * size

    def see(self, strategy: Any, part: int, part_images: int) -> str:
        """Make the images of a part, of which each but the last has `part_images`; what the metrics need of them, as text."""
        make_images, requests = self.evaluator.generation(self.num_images, self.seed, strategy)
        size = self.evaluator.extractor.batch_size
        end = min((part + 1) * part_images, self.num_images)
        calls = range(part * part_images // size, math.ceil(end / size))
        return _to_text(self.evaluator.see(make_images, requests, self.num_images, calls))

    def whole(self, trial: optuna.Trial, seen: Sequence[str]) -> float:
        """The value of a strategy from what was seen of all its parts, in their order."""
        trial.set_user_attr("seed", self.seed)
        parts = [_from_text(text) for text in seen]
        return self._record(trial, self.num_images, self.evaluator.put_together(parts, self.num_images, self.seed))


def count_parts(study: Study, score: Any, begun: bool) -> int:
    """In how many parts a study scores each candidate. It is decided when it begins; studies of earlier code know only one.

    Args:
        score: Other scores than a `PartedScore` are of one piece.
        begun: Whether it has candidates already.

    Raises:
        ValueError: the study has parts, and the score has none.
    """
    parted = isinstance(score, PartedScore)
    if parted and not begun and score.part_images < score.num_images:
        study.set_user_attr(OF_EACH, score.part_images)
    part_images = study.user_attrs.get(OF_EACH)
    if part_images is None:
        return 1
    if not parted:
        raise ValueError(f"study {study.study_name!r} was begun with a score in parts: choose another name")
    return math.ceil(score.num_images / part_images)


def score_part(study: Study, trial: optuna.Trial, score: Any, strategy: Any) -> float:
    """Make a part of a candidate, or find it made; the candidate's value if no part is missing.

    Each worker writes its part before it looks for the others, so that whoever writes last sees them all. Of two that do,
    both measure, and find the same.

    Raises:
        optuna.TrialPruned: others are missing.
    """
    part, num_parts = trial.suggest_int("part", 0, 10**6), count_parts(study, score, begun=True)
    if part not in _seen_of(study, trial):  # of a worker that was killed right after it
        trial.set_user_attr(SEEN, score.see(strategy, part, study.user_attrs[OF_EACH]))
    seen = _seen_of(study, trial)
    if len(seen) < num_parts:
        raise optuna.TrialPruned(f"part {part + 1} of {num_parts}: the value is of all")
    return score.whole(trial, [seen[number] for number in range(num_parts)])


def _seen_of(study: Study, trial: optuna.Trial) -> dict[int, str]:
    """What is known of the parts of a trial's strategy, whose place in the list may have been another's."""
    strategy = trial.user_attrs[STRATEGY]
    parts = [one for one in all_trials(study) if one.user_attrs.get(STRATEGY) == strategy]
    return {part.params["part"]: part.user_attrs[SEEN] for part in parts if SEEN in part.user_attrs}


def _to_text(seen: Seen) -> str:
    tensors = {f"{prefix}/{name}": values for prefix, by_name in seen.items() for name, values in by_name.items()}
    return base64.b64encode(safetensors.torch.save(tensors)).decode()


def _from_text(text: str) -> Seen:
    seen: Seen = {}
    for key, values in safetensors.torch.load(base64.b64decode(text)).items():
        prefix, _, name = key.partition("/")
        seen.setdefault(prefix, {})[name] = values
    return seen
