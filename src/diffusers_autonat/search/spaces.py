"""What is searched: the names, bounds, clamps, step sizes and learning rates of every parameter, and nothing else.

A *space* is a plain dictionary from parameter name to `DescentParameter` or `GridParameter`. The names are the keys of a
strategy, followed for schedules by the 0-based step: `mask_ratios.0`, ..., `guidance_scales.3`; and `alpha`, `beta`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import optuna

from ..strategies import WITHOUT_EFFECT_LAST, GenerationStrategy, Strategy, StrategyT, TrainingStrategy


SWITCHED_OFF = 1e-4  # lower clamp of tau1, tau2 and s: a value resting on it means 0 in the strategy


@dataclass(frozen=True)
class DescentParameter:
    """A real parameter that finite differences can follow.

    Args:
        start: Value of the first point.
        low, high: Bounds; every value that is tried lies within them.
        step: Distance between the two evaluations of a difference.
        learning_rate: Factor from slope to move.
    """

    start: float
    low: float
    high: float
    step: float
    learning_rate: float

    def __post_init__(self):
        if not (self.low <= self.start <= self.high and self.low < self.high):
            raise ValueError(f"start {self.start} must lie in [{self.low}, {self.high}], and the bounds must differ")
        if not (self.step > 0 and self.learning_rate > 0):
            raise ValueError(f"step {self.step} and learning rate {self.learning_rate} must be positive")

    def clamp(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class GridParameter:
    """A parameter that a line search moves along ascending `values`, beginning at `start`, which is one of them."""

    start: float
    values: tuple[float, ...]

    def __post_init__(self):
        if list(self.values) != sorted(set(self.values)) or len(self.values) < 2:
            raise ValueError(f"a grid needs at least two different ascending values, got {self.values}")
        if self.start not in self.values:
            raise ValueError(f"start {self.start} is not on the grid {self.values}")

    @property
    def low(self) -> float:
        return self.values[0]

    @property
    def high(self) -> float:
        return self.values[-1]


Parameter = DescentParameter | GridParameter

# Bounds, step and learning rate of each schedule. Lower bounds, steps and rates are the released ones. The released
# search has no upper bound on temperatures and guidance; samplers such as TPE need one, and every published strategy,
# heuristic or found, lies well inside these, but for aMUSEd's own guidance, s = 9: a start above the bound on s moves it. The last
# two are of other orders: eta is a share, about a tenth of a temperature, and gamma, in nats of many tokens, tens of times one;
# steps scale with that, rates with its square.
_SCHEDULES = {
    "mask_ratios": {"low": 0.0, "high": 0.99, "step": 0.01, "learning_rate": 0.001},
    "sampling_temperatures": {"low": SWITCHED_OFF, "high": 6.0, "step": 0.1, "learning_rate": 0.1},
    "remasking_temperatures": {"low": SWITCHED_OFF, "high": 10.0, "step": 0.1, "learning_rate": 0.1},
    "guidance_scales": {"low": SWITCHED_OFF, "high": 6.0, "step": 0.1, "learning_rate": 0.1},
    "remasking_rates": {"low": SWITCHED_OFF, "high": 1.0, "step": 0.01, "learning_rate": 0.001},
    "entropy_bounds": {"low": SWITCHED_OFF, "high": 1000.0, "step": 4.0, "learning_rate": 160.0},
}
SCHEDULE_NAMES = tuple(field.name for field in fields(GenerationStrategy))
# Nothing is re-masked at the last step, where mask_ratios are 0.
WITHOUT_LAST_STEP = ("mask_ratios", *WITHOUT_EFFECT_LAST)


def generation_start(num_inference_steps: int) -> GenerationStrategy:
    """Where the released search starts, at t = 1..T: r = cos(pi t / 2T), tau1 = 1, tau2 = 1 - t/T, s = t/T."""
    total = num_inference_steps
    steps = range(1, total + 1)
    return GenerationStrategy(
        mask_ratios=tuple(math.cos(math.pi * t / (2 * total)) if t < total else 0.0 for t in steps),
        sampling_temperatures=(1.0,) * total,
        remasking_temperatures=tuple(1 - t / total for t in steps),
        guidance_scales=tuple(t / total for t in steps),
    )


def generation_space(
    start: Strategy, free: Sequence[str] | None = None, step_scale: float = 1.0
) -> dict[str, DescentParameter]:
    """The space around a generation strategy of T steps.

    Args:
        start: The first point. It also holds the schedules that are not free.
        free: Which of its schedules, by their names, are searched (Table 6e); all by default.
        step_scale: Factor on the released steps of finite differences, which suit values from 50,000 images. The noise
            of a difference grows as N^-1/2, and the step that balances it against curvature as the noise's square root
            (cube root where differences are central): 2 to 3 for a thousand images.

    Returns:
        Up to 4T - 2 parameters: r and tau2 have no effect at the last step, where nothing is re-masked.
    """
    schedules = start.to_dict()
    free = list(schedules) if free is None else free
    unknown = sorted(set(free) - set(schedules))
    if unknown:
        raise ValueError(f"unknown schedules {unknown}; a {type(start).__name__} has {list(schedules)}")
    space = {}
    for schedule, all_values in schedules.items():
        settings, values = _SCHEDULES[schedule], all_values if schedule in free else []
        high = settings["high"]
        if schedule == "guidance_scales" and max(values, default=0.0) > high:
            high = 2 * max(values)
        scaled = {**settings, "step": step_scale * settings["step"], "high": high}
        for t, value in enumerate(values[:-1] if schedule in WITHOUT_LAST_STEP else values):
            space[f"{schedule}.{t}"] = DescentParameter(start=_as_parameter(schedule, value, high), **scaled)
    if not space:
        raise ValueError(
            f"nothing is free: {list(free)} leaves no parameter to search at T = {start.num_inference_steps}"
        )
    return space


def generation_strategy(params: Mapping[str, float], start: StrategyT) -> StrategyT:
    """The strategy that a trial's parameters stand for; what they do not name is taken from `start`."""
    schedules = start.to_dict()
    for name, value in params.items():
        schedule, _, t = name.partition(".")
        if schedule in schedules:
            schedules[schedule][int(t)] = float(value) if value > _SCHEDULES[schedule]["low"] else 0.0
    return type(start)(**{schedule: tuple(values) for schedule, values in schedules.items()})


def generation_params(strategy: Strategy, space: Mapping[str, Parameter]) -> dict[str, float]:
    """The parameters of a space that stand for a strategy, e.g. for `study.enqueue_trial`."""
    params = {}
    for name, parameter in space.items():
        schedule, _, t = name.partition(".")
        if schedule in _SCHEDULES:
            params[name] = _as_parameter(schedule, getattr(strategy, schedule)[int(t)], parameter.high)
    return params


def _as_parameter(schedule: str, value: float, high: float) -> float:
    """A value of a strategy within the bounds: the released clamps apply, above the others is an error."""
    low = _SCHEDULES[schedule]["low"]
    if schedule == "mask_ratios":
        return min(value, high)
    if value > high:
        raise ValueError(f"{schedule} has a value {value} above the bound {high} of the search")
    return max(value, low)


def interpolate_schedule(schedule: str, values: Sequence[float], num_inference_steps: int) -> list[float]:
    """A schedule `[T]` at the relative times t / T' of another number T' of steps, linear between its own."""
    times = [t / len(values) for t in range(1, len(values) + 1)]
    heights = list(values)
    if schedule == "mask_ratios":  # everything is masked before the first step
        times, heights = [0.0, *times], [1.0, *heights]
    elif schedule in WITHOUT_LAST_STEP and len(values) > 1:  # without effect at the last step, so not known there
        times, heights = times[:-1], heights[:-1]
    steps = [t / num_inference_steps for t in range(1, num_inference_steps + 1)]
    return np.interp(steps, times, heights).tolist()


def resample_strategy(strategy: StrategyT, num_inference_steps: int) -> StrategyT:
    """A strategy for another number of steps, close to the given one: where a search of it can start."""
    schedules = strategy.to_dict().items()
    return type(strategy)(**{name: interpolate_schedule(name, v, num_inference_steps) for name, v in schedules})


def training_space(
    start: TrainingStrategy,
    alphas: Sequence[float] = (1, 2, 4, 8, 12, 16, 24),
    betas: Sequence[float] = (0.5, 1, 2, 3, 4, 6),
) -> dict[str, GridParameter]:
    """The grid of Beta(alpha, beta) mask-ratio distributions, and where on it the search starts.

    Beta(1, 0.5) is the closest to the heuristic `TrainingStrategy.arccos()`; the paper's search found Beta(12, 3).
    """
    grids = {"alpha": alphas, "beta": betas}
    params = training_params(start)
    return {name: GridParameter(params[name], tuple(float(value) for value in grids[name])) for name in grids}


def training_strategy(params: Mapping[str, float]) -> TrainingStrategy:
    """The mask-ratio distribution that a trial's parameters stand for."""
    return TrainingStrategy(alpha=float(params["alpha"]), beta=float(params["beta"]))


def training_params(strategy: TrainingStrategy) -> dict[str, float]:
    """The parameters that stand for a mask-ratio distribution, e.g. for `study.enqueue_trial`."""
    if strategy.alpha is None or strategy.beta is None:
        raise ValueError(f"only a Beta distribution has alpha and beta to search, got {strategy.to_dict()}")
    return {"alpha": float(strategy.alpha), "beta": float(strategy.beta)}


def suggest(trial: optuna.Trial, space: Mapping[str, Parameter]) -> dict[str, float]:
    """Ask a trial for every parameter of a space: the first line of an objective, whatever the sampler."""
    return {name: trial.suggest_float(name, parameter.low, parameter.high) for name, parameter in space.items()}
