"""How a trial becomes a strategy: which parameters there are, and what they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna

from ..strategies import WITHOUT_EFFECT_LAST, Strategy
from .spaces import (
    DescentParameter,
    generation_space,
    generation_strategy,
    interpolate_schedule,
    suggest,
)


STEPS = "num_inference_steps"
GUIDANCE_OFF = -2.0  # lower bound of s where its being off is searched too: everything below the clamp is off


class StrategySpace(Protocol):
    """How a trial becomes a strategy, and by which parameters."""

    def suggest(self, trial: optuna.Trial) -> Any: ...


class OneLengthSpace(Protocol):
    """A space of strategies of T steps, whose parameters are real numbers."""

    start: Strategy
    parameters: Mapping[str, DescentParameter]

    def strategy(self, params: Mapping[str, float]) -> Any: ...

    def suggest(self, trial: optuna.Trial) -> Any: ...


class FixedStepsSpace:
    """Every value of the free schedules of T steps is a parameter; what is not free stays as in `start`."""

    def __init__(self, start: Strategy, free: Sequence[str] | None = None, step_scale: float = 1.0):
        self.start = start
        self.parameters: Mapping[str, DescentParameter] = generation_space(start, free, step_scale)

    def suggest(self, trial: optuna.Trial) -> Any:
        return self.strategy(suggest(trial, self.parameters))

    def strategy(self, params: Mapping[str, float]) -> Any:
        return generation_strategy(params, self.start)


class CurveSpace:
    """
    The free schedules of T steps are curves through a few knots, whose heights are the parameters; what is not free stays as
    in `start`. So a search of many steps has no more to find than one of few.

    The first knot is the first step, which is unlike all others, and the last one the last; curves between are straight.

    Args:
        start: What the first curves come close to; they are `self.start`.
        num_knots: Of each schedule, from 2 to T.
    """

    def __init__(
        self,
        start: Strategy,
        num_knots: int,
        free: Sequence[str] | None = None,
        step_scale: float = 1.0,
    ):
        steps = start.num_inference_steps
        if not 2 <= num_knots <= steps:
            raise ValueError(f"{num_knots} knots: curves of {steps} steps have 2 to {steps}")
        self._free, self._rest = tuple(start.to_dict() if free is None else free), start
        self._steps, self._times = np.arange(steps), np.linspace(0, steps - 1, num_knots)
        schedules = start.to_dict().items()
        self._knots = type(start)(
            **{name: np.interp(self._times, self._steps, values).tolist() for name, values in schedules}
        )
        self.parameters: Mapping[str, DescentParameter] = generation_space(self._knots, free, step_scale)
        self.start = self.strategy({name: parameter.start for name, parameter in self.parameters.items()})

    def suggest(self, trial: optuna.Trial) -> Any:
        return self.strategy(suggest(trial, self.parameters))

    def strategy(self, params: Mapping[str, float]) -> Any:
        schedules = self._rest.to_dict()
        for name, values in generation_strategy(params, self._knots).to_dict().items():
            if name in self._free:
                if name in WITHOUT_EFFECT_LAST:  # so it is not searched there
                    values = [*values[:-1], values[-2]]
                schedules[name] = np.interp(self._steps, self._times, values).tolist()
        return type(self._rest)(**schedules)


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
