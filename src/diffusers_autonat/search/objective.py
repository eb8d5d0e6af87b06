"""From a trial to its value: the strategy it stands for, and what images made with that strategy are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from ..cost.passes import PassCounter
from ..strategies import Strategy
from ..strategy_files import strategy_from_dict
from .constraints import Constraint
from .strategy_spaces import StrategySpace
from .workers import turn_of


STRATEGY = "strategy"  # trial user attribute: the strategy that was scored
POPULATION = "population"  # the same: many strategies around it were, and the value is not its own

# A distance by the name it is asked for, and by those it has in an evaluation's results.
METRICS = {"fid": ("fid", "frechet_distance"), "kid": ("kid", "kernel_distance")}

Score = Callable[[Any, optuna.Trial], float]


class Evaluator(Protocol):
    """What is asked of `diffusers_autonat.metrics.Evaluator`."""

    def __call__(self, num_images: int, seed: int = 0, strategy: Strategy | None = None) -> dict[str, float]: ...

    def rungs(
        self, num_images: Sequence[int], seed: int = 0, strategy: Strategy | None = None
    ) -> Iterator[tuple[int, dict[str, float]]]: ...


@dataclass
class EvaluatorScore:
    """Score a strategy by the images it makes: the distance of N of them to a reference.

    All trials draw the same labels and noise (common random numbers), so what differs is the strategy. With `redraw`,
    a search in rounds draws anew for each round, others for each trial: slower, but it cannot fit the noise.

    Args:
        evaluator: Generates and measures.
        num_images: N.
        seed: Of labels and noise.
        metric: A key of `METRICS`.
        redraw: Draw new noise as the search goes on.
        rungs: Numbers of images below N at which the study's pruner may give a trial up.
        passes: Watches the transformer; then a trial says how many passes it took.
        constraint: What strategies have to keep; the distance of those that do not counts more.
    """

    evaluator: Evaluator
    num_images: int
    seed: int = 0
    metric: str = "fid"
    redraw: bool = False
    rungs: Sequence[int] = ()
    passes: PassCounter | None = None
    constraint: Constraint | None = None

    def __call__(self, strategy: Strategy, trial: optuna.Trial, near: Strategy | None = None) -> float:
        """`near` is for an evaluator that can share with it, see `ReplayingEvaluator`."""
        seed = self.seed + (turn_of(trial) if self.redraw else 0)
        trial.set_user_attr("seed", seed)
        before = 0 if self.passes is None else self.passes.count
        try:
            return self._measure(strategy, trial, seed, {} if near is None else {"near": near})
        finally:
            if self.passes is not None:
                trial.set_user_attr("passes", self.passes.count - before)

    def _measure(self, strategy: Strategy, trial: optuna.Trial, seed: int, sharing: dict[str, Any]) -> float:
        if not self.rungs:
            values = self.evaluator(self.num_images, seed=seed, strategy=strategy, **sharing)
            return self._record(trial, self.num_images, values)
        value = float("nan")
        for count, values in self.evaluator.rungs([*self.rungs, self.num_images], seed=seed, strategy=strategy):
            value = self._record(trial, count, values)
            trial.report(value, count)
            if count < self.num_images and trial.should_prune():
                raise optuna.TrialPruned(f"given up after {count} images")
        return value

    def _record(self, trial: optuna.Trial, num_images: int, values: Mapping[str, float]) -> float:
        trial.set_user_attr("num_images", num_images)
        trial.set_user_attr("values", dict(values))
        distance = values[next(name for name in METRICS[self.metric] if name in values)]
        return distance if self.constraint is None else self.constraint.penalised(distance, values)


class StrategyObjective:
    """The objective of a generation search, for any way of scoring: `study.optimize(StrategyObjective(space, score))`.

    Args:
        space: Turns a trial into a strategy.
        score: From a strategy and its trial to the value.
        cost: From a strategy to what an image costs; given, the trial has two values, score and cost.
    """

    def __init__(self, space: StrategySpace, score: Score, cost: Callable[[Any], float] | None = None):
        self.space = space
        self.score = score
        self.cost = cost

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, float]:
        strategy = self.space.suggest(trial)
        trial.set_user_attr(STRATEGY, strategy.to_dict())
        if self.cost is None:
            return self.score(strategy, trial)
        return self.score(strategy, trial), self.cost(strategy)


def is_population(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial's value is that of many strategies, and of none alone."""
    return POPULATION in trial.user_attrs


def strategy_of(trial: optuna.trial.FrozenTrial) -> Any:
    """The strategy that a trial scored."""
    return strategy_from_dict(trial.user_attrs[STRATEGY])
