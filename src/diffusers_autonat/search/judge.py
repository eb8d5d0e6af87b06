"""How the strategies of a pipeline are judged: what a value is, and everything it depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch

from ..cost.passes import PassCounter
from ..loading import default_device, load_pipeline
from ..metrics import METRICS as METRICS_BY_NAME
from ..metrics import SECOND, CaptionConditions, Evaluator, FeatureExtractor, MetricSuite, Reference, check_second
from ..metrics.per_class import RECOGNISED
from ..pipelines.prompts import takes_prompts
from ..strategies import GenerationStrategy, TrainingStrategy
from .constraints import Constraint
from .objective import METRICS, EvaluatorScore
from .parts import PartedScore
from .replay import ReplayingEvaluator
from .training import Train, TrainingScore


@dataclass(frozen=True)
class Judge:
    """How strategies of a pipeline are measured: with which extractor, reference, metric, noise and number of images.

    Args:
        extractor, reference: Checked against each other.
        metric: A key of `METRICS`.
        num_images: Of each trial.
        seed: Of labels and noise, the same in each trial.
        redraw_noise: Draw new noise for each round (or trial).
        label_policy: See `metrics.Evaluator`.
        batch_size: Images generated at a time; changes nothing but memory.
        dtype: Of pipelines that are loaded to be judged, as torch names it.
        confirm_images, confirm_seed: What winners are measured again with.
        progress: Show a bar while confirming.
        constraint: What strategies have to keep.
        captions: Of the images of pipelines that draw from text.
        second: Another extractor with its reference, which see the confirmation's images and nothing else.

    Raises:
        ValueError: a reference was made with another extractor, or the second extractor is the first.
    """

    extractor: FeatureExtractor
    reference: Reference
    metric: str = "fid"
    num_images: int = 1000
    seed: int = 0
    redraw_noise: bool = False
    label_policy: str = "balanced"
    batch_size: int = 128
    dtype: str = "float32"
    confirm_images: int = 5000
    confirm_seed: int = 1_000_003
    progress: bool = False
    constraint: Constraint | None = None
    captions: CaptionConditions | None = None
    second: tuple[FeatureExtractor, Reference] | None = None

    def __post_init__(self):
        self.reference.check_extractor(self.extractor)
        if self.second is not None:
            other, its_reference = self.second
            check_second(self.extractor, other)
            its_reference.check_extractor(other)

    @property
    def afresh(self) -> Judge:
        """The same with noise by which nothing was chosen: the best of several that were confirmed is a little lucky."""
        return replace(self, confirm_seed=self.confirm_seed + 1)

    def load_pipeline(self, name: str | Path) -> Any:
        """The pipeline of a folder or Hub id, as it is judged: in `dtype`, on the accelerator where there is one."""
        return load_pipeline(name, getattr(torch, self.dtype), default_device())

    def evaluator(self, pipeline: Any, progress: bool = False, confirms: bool = False) -> Evaluator:
        """Distance, and where the extractor knows the pipeline's classes their recognition.

        If it `confirms`, also the distance's standard error, and the same by the second extractor.
        """
        from_text = takes_prompts(pipeline)
        num_classes = None if from_text else pipeline.transformer.config.num_classes
        first = MetricSuite.of_distance(self.extractor, self.reference, num_classes, self.metric, error=confirms)
        metrics = dict.fromkeys([*first.metrics, *self._constrained()])
        second = None
        if confirms and self.second is not None:
            second = MetricSuite.of_distance(*self.second, num_classes, self.metric)
        return Evaluator(
            pipeline,
            self.extractor,
            self.reference,
            metrics=tuple(metrics),
            label_policy=self.label_policy,
            batch_size=self.batch_size,
            progress=progress,
            conditions=self.captions if from_text else None,
            second=second,
        )

    def _constrained(self) -> list[str]:
        """The metric that gives what is constrained, if anything is."""
        if self.constraint is None:
            return []
        known = {
            value: name
            for name, metric in METRICS_BY_NAME.items()
            for value in metric.values_by(self.extractor)
            # That of one class has more in its name, and no text tower reads prompts here.
            if value != RECOGNISED and not metric.needs_prompts
        }
        if self.constraint.name not in known:
            raise ValueError(
                f"the constraint is on {self.constraint.name}; {self.extractor.name} can tell {', '.join(known)}"
            )
        return [known[self.constraint.name]]

    def score(self, pipeline: Any, rungs: list[int] | None = None) -> EvaluatorScore:
        """The score of the search's trials, which share what is equal in their images."""
        evaluator = ReplayingEvaluator(self.evaluator(pipeline))
        passes = PassCounter(pipeline.transformer)
        return EvaluatorScore(
            evaluator,
            self.num_images,
            self.seed,
            self.metric,
            self.redraw_noise,
            rungs or (),
            passes,
            self.constraint,
        )

    def confirm_score(self, pipeline: Any) -> PartedScore:
        """The score of the winners: fresh noise, more images, in parts, and a bar of its own where someone looks."""
        evaluator = self.evaluator(pipeline, self.progress, confirms=True)
        return PartedScore(evaluator, self.confirm_images, self.confirm_seed, self.metric, constraint=self.constraint)

    def training_score(self, train: Train, strategy: GenerationStrategy, confirm: bool = False) -> TrainingScore:
        """The score of p(r): of the pipeline trained with it, with one generation strategy for all."""

        def score(candidate: TrainingStrategy, trial: optuna.Trial) -> float:
            pipeline = self.load_pipeline(train(candidate))
            return (self.confirm_score if confirm else self.score)(pipeline)(strategy, trial)

        return score

    def identity(self, **more: Any) -> dict[str, Any]:
        """What every value depends on, for `open_study`."""
        return {
            "metric": self.metric,
            "num_images": self.num_images,
            "seed": self.seed,
            "redraw_noise": self.redraw_noise,
            "label_policy": self.label_policy,
            "dtype": self.dtype,
            "extractor": self.extractor.weights_hash,
            "extractor_batch_size": self.extractor.batch_size,
            "reference": self.reference.hash,
            **({} if self.constraint is None else {"constraint": str(self.constraint)}),
            **({} if self.captions is None else {"captions": self.captions.hash}),
            **more,
        }

    def confirm_identity(self, **more: Any) -> dict[str, Any]:
        fresh = {"num_images": self.confirm_images, "seed": self.confirm_seed, "redraw_noise": False}
        return {**self.identity(**more), **fresh, **self.second_identity()}

    def second_identity(self) -> dict[str, str]:
        """What the second extractor's values depend on; nothing where there is none."""
        if self.second is None:
            return {}
        extractor, reference = self.second
        return {"second_extractor": extractor.weights_hash, "second_reference": reference.hash}

    @property
    def value_name(self) -> str:
        """The distance by the name it may have: FID is only that of the standard network."""
        return self._name_of(self.extractor)

    @property
    def second_name(self) -> str | None:
        """That of the second extractor, if there is one."""
        return None if self.second is None else SECOND + self._name_of(self.second[0])

    def _name_of(self, extractor: FeatureExtractor) -> str:
        return METRICS[self.metric][0 if extractor.is_standard_inception else 1]
