"""From a trial to its value: the strategy it stands for, and what images made with that strategy are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from ..strategies import Strategy, strategy_from_dict
from .spaces import (
    DescentParameter,
    generation_space,
    generation_strategy,
    interpolate_schedule,
    suggest,
)
from .workers import turn_of


STRATEGY = "strategy"  # trial user attribute: the strategy that was scored
STEPS = "num_inference_steps"
GUIDANCE_OFF = -2.0  # lower bound of s where its being off is searched too: everything below the clamp is off

# A distance by the name it is asked for, and by those it has in an evaluation's results.
METRICS = {"fid": ("fid", "frechet_distance"), "kid": ("kid", "kernel_distance")}

Score = Callable[[Any, optuna.Trial], float]


class StrategySpace(Protocol):
    """How a trial becomes a strategy, and by which parameters."""

    def suggest(self, trial: optuna.Trial) -> Any: ...


class FixedStepsSpace:
    """Every value of the free schedules of T steps is a parameter; what is not free stays as in `start`."""

    def __init__(self, start: Strategy, free: Sequence[str] | None = None, step_scale: float = 1.0):
        self.start = start
        self.parameters: Mapping[str, DescentParameter] = generation_space(start, free, step_scale)

    def suggest(self, trial: optuna.Trial) -> Any:
        return generation_strategy(suggest(trial, self.parameters), self.start)


class AnyStepsSpace:
    """Strategies of several lengths in one space, for a search that trades quality for cost.

    Parameters are the schedules at as many relative times t / T as the shortest strategy has steps, named as in
    `generation_space`, and the number of steps. A longer strategy interpolates. So every sampler sees the same
    parameters in every trial, and what was learnt with few steps helps with many. s may go below its clamp, down to
    -2: there a step is not guided and costs one pass instead of two.

    Args:
        starts: One strategy of each length.
    """

    def __init__(self, starts: Sequence[Strategy], free: Sequence[str] | None = None):
        self.starts = {
            start.num_inference_steps: start for start in sorted(starts, key=lambda s: s.num_inference_steps)
        }
        if len(self.starts) < len(starts):
            raise ValueError(f"give one start for each number of steps, got {[s.num_inference_steps for s in starts]}")
        self.num_knots = min(self.starts)
        parameters = generation_space(self.starts[self.num_knots], free)
        self.parameters: Mapping[str, DescentParameter] = {
            name: DescentParameter(
                parameter.start,
                GUIDANCE_OFF if name.startswith("guidance_scales") else parameter.low,
                parameter.high,
                parameter.step,
                parameter.learning_rate,
            )
            for name, parameter in parameters.items()
        }

    def first_points(self) -> list[dict[str, Any]]:
        """For each number of steps the start as it is and without any guidance: two ends of the front."""
        points = []
        for steps in self.starts:
            point = {name: parameter.start for name, parameter in self.parameters.items()}
            off = {name: GUIDANCE_OFF for name in point if name.startswith("guidance_scales")}
            points += [{**point, STEPS: steps}, {**point, **off, STEPS: steps}]
        return points

    def suggest(self, trial: optuna.Trial) -> Any:
        steps = trial.suggest_categorical(STEPS, list(self.starts))
        return self.strategy(suggest(trial, self.parameters), steps)

    def strategy(self, params: Mapping[str, float], steps: int) -> Any:
        """The strategy of so many steps through the values at the knots."""
        start, knots = self.starts[steps], self.num_knots
        through = generation_strategy(params, self.starts[knots])
        schedules = {}
        for name, values in through.to_dict().items():
            if not any(param.startswith(name) for param in params):
                schedules[name] = getattr(start, name)
                continue
            if name == "guidance_scales":  # negative knots count when interpolating: guidance may begin between two
                values = [params[f"{name}.{knot}"] for knot in range(knots)]
            schedules[name] = [max(value, 0.0) for value in interpolate_schedule(name, values, steps)]
        return type(start)(**schedules)


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
    """

    evaluator: Evaluator
    num_images: int
    seed: int = 0
    metric: str = "fid"
    redraw: bool = False
    rungs: Sequence[int] = ()

    def __call__(self, strategy: Strategy, trial: optuna.Trial) -> float:
        seed = self.seed + (turn_of(trial) if self.redraw else 0)
        trial.set_user_attr("seed", seed)
        if not self.rungs:
            return self._record(trial, self.num_images, self.evaluator(self.num_images, seed=seed, strategy=strategy))
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
        return values[next(name for name in METRICS[self.metric] if name in values)]


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


def strategy_of(trial: optuna.trial.FrozenTrial) -> Any:
    """The strategy that a trial scored."""
    return strategy_from_dict(trial.user_attrs[STRATEGY])
