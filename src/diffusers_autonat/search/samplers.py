"""All samplers by name. A new one is a file with a `SharedSampler` and its `SamplerKind`, and one line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..strategies import Strategy
from . import finite_difference, optuna_samplers, population
from .interface import SamplerKind, SharedSampler
from .spaces import DescentParameter
from .strategy_spaces import CurveSpace, FixedStepsSpace, OneLengthSpace


SAMPLERS: dict[str, SamplerKind] = {
    "population": population.POPULATION_KIND,
    "finite-difference": finite_difference.WITH_LINE_SEARCH,
    "released": finite_difference.RELEASED,
    "tpe": optuna_samplers.TPE,
    "cmaes": optuna_samplers.CMAES,
    "gp": optuna_samplers.GP,
    "random": optuna_samplers.RANDOM,
    "nsga2": optuna_samplers.NSGA2,
}

DEFAULT_SAMPLER = "population"  # of searches for quality alone: the best at equal images, see docs/search_results.md
MANY_STEPS, KNOTS = 6, 4  # from so many steps on, schedules are curves through so many points


def sampler_names(num_objectives: int = 1) -> list[str]:
    """The samplers for studies of so many objectives."""
    return [name for name, kind in SAMPLERS.items() if num_objectives in kind.num_objectives]


def default_knots(name: str, num_inference_steps: int) -> int | None:
    """
    Knots of the curves that a sampler searches at T steps where nobody says; None is a value for each step. `released` has
    no curves, as the paper has none.
    """
    return KNOTS if SAMPLERS[name].curves and num_inference_steps >= MANY_STEPS else None


def make_space(
    name: str, start: Strategy, free: Sequence[str] | None = None, num_knots: int | None = None
) -> OneLengthSpace:
    """The space of strategies around a start as a sampler wants it.

    Args:
        name: One of `SAMPLERS`.
        start: The first strategy.
        free: Schedules that are searched.
        num_knots: Of the curves that they are; None: every step has its own value. See `default_knots`.
    """
    kind = SAMPLERS[name]
    if num_knots is None:
        return kind.space(FixedStepsSpace(start, free, kind.step_scale))
    return kind.space(CurveSpace(start, num_knots, free, kind.step_scale))


def make_sampler(
    name: str,
    space: Mapping[str, DescentParameter],
    num_trials: int,
    seed: int = 0,
    starts: Sequence[Mapping[str, Any]] | None = None,
) -> SharedSampler:
    """A sampler by the name that the scripts know it by.

    `population` gives every image a strategy of its own; `finite-difference` follows central differences with a line search;
    `released` is the descent of the AutoNAT authors' code: one-sided differences, a learning rate and momentum 0.5. The
    others are Optuna's.

    Args:
        name: One of `SAMPLERS`.
        space: What is searched.
        num_trials: Length of the search; finite differences make as many whole updates as fit.
        seed: Of all but finite differences, which draw nothing.
        starts: Points to try first; by default the start of the space.

    Raises:
        ValueError: there is no such sampler, or not even one update fits.
    """
    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}; there are {', '.join(SAMPLERS)}")
    start = {key: parameter.start for key, parameter in space.items()}
    return SAMPLERS[name].make(space, num_trials, seed, [start] if starts is None else starts)
