"""Optuna's own samplers made resumable, and one function that makes any sampler by name."""

from __future__ import annotations

import copy
import itertools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from .finite_difference import (
    LINE_SEARCH,
    WEEK,
    FiniteDifferenceSampler,
    Point,
    _all_trials,
    _is_gone,
    _this_worker,
    fail_lost_trial,
    is_lost,
)
from .spaces import DescentParameter


RUN = "autonat:run"  # trial system attribute: who runs the trial, since when, and as which trial of the search

STEP_SCALE = {"finite-difference": 3.0}  # of the space it is meant for, see `generation_space`; 1 for all others
SAMPLERS = ("finite-difference", "released", "tpe", "cmaes", "gp", "random", "nsga2")


class ResumableSampler(BaseSampler):
    """Runs another sampler so that a killed and restarted search goes on as if nothing had happened.

    Every trial gets an index: the lowest that no trial holds, lost trials aside. The other sampler is made anew for
    each trial with a seed from that index, so what it proposes depends on the finished trials and on nothing in the
    process. With one worker a search that was killed proposes
    again what was lost, then what an unbroken one would have proposed.

    A trial counts as lost at once when it ran on this machine and its process is gone, otherwise after `stale_after`
    seconds.

    Args:
        make: Makes the other sampler from a seed.
        seed: Of the whole search.
        starts: Parameters of the first trials; the other sampler proposes from the trial after them on.
        stale_after: Seconds after which a running trial counts as lost; by default ten times the longest finished
            trial and at least a minute, or a week while none has finished.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int = 0,
        starts: Sequence[Point] = (),
        stale_after: float | None = None,
    ):
        self._make = make
        self._seed = seed
        self._starts = list(starts)
        self._stale_after = stale_after
        self._running: dict[int, tuple[int, BaseSampler]] = {}  # by trial number: index, and the sampler for it

    def reseed_rng(self) -> None:
        pass  # the seed belongs to the index

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        fail_lost_trials(study, self._stale_after, own=trial.number)
        while True:
            index = _lowest_free_index(study, trial)
            run: dict[str, Any] = {"index": index, "worker": _this_worker(), "since": time.time()}
            study._storage.set_trial_system_attr(trial._trial_id, RUN, run)
            rivals = (t for t in _all_trials(study) if t.number < trial.number and not is_lost(t))
            if all(t.system_attrs.get(RUN, {}).get("index") != index for t in rivals):
                break  # else another worker took the same index at the same time: the earlier trial keeps it
        self._running[trial.number] = (index, self._make(self._seed + index))
        self._running[trial.number][1].before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if (start := self._start(trial)) is not None and set(search_space) <= set(start):
            return {name: start[name] for name in search_space}
        sampler = self._sampler(trial)
        if isinstance(sampler, optuna.samplers.CmaEsSampler):  # adds the trial's number to its seed
            trial = copy.copy(trial)
            trial.number = self._index(trial)
        return sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if (start := self._start(trial)) is not None and param_name in start:
            return start[param_name]
        return self._sampler(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler(trial).after_trial(study, trial, state, values)
        self._running.pop(trial.number, None)

    def _sampler(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._running:  # a trial that another process began
            index = trial.system_attrs.get(RUN, {}).get("index", trial.number)
            self._running[trial.number] = (index, self._make(self._seed + index))
        return self._running[trial.number][1]

    def _index(self, trial: FrozenTrial) -> int:
        self._sampler(trial)
        return self._running[trial.number][0]

    def _start(self, trial: FrozenTrial) -> Point | None:
        index = self._index(trial)
        return self._starts[index] if index < len(self._starts) else None


def _lowest_free_index(study: Study, trial: FrozenTrial) -> int:
    others = (t for t in _all_trials(study) if t.number != trial.number and not is_lost(t))
    taken = {t.system_attrs[RUN]["index"] for t in others if RUN in t.system_attrs}
    return next(index for index in itertools.count() if index not in taken)


def fail_lost_trials(study: Study, stale_after: float | None = None, own: int | None = None) -> None:
    """Mark running trials whose worker is gone, or has been silent for too long, as failed, with the reason.

    Args:
        study: Its trials were begun by a `ResumableSampler`; others are left alone.
        stale_after: See `ResumableSampler`.
        own: Number of the trial that asks.
    """
    trials = [t for t in _all_trials(study) if RUN in t.system_attrs]
    if stale_after is None:
        durations = [t.duration.total_seconds() for t in trials if t.state == TrialState.COMPLETE and t.duration]
        stale_after = max(60.0, 10 * max(durations)) if durations else WEEK
    for trial in trials:
        run = trial.system_attrs[RUN]
        overdue = time.time() - run["since"] > stale_after
        if trial.state == TrialState.RUNNING and trial.number != own and (overdue or _is_gone(run["worker"])):
            fail_lost_trial(study, trial, run["worker"])


def make_sampler(
    name: str,
    space: Mapping[str, DescentParameter],
    num_trials: int,
    seed: int = 0,
    starts: Sequence[Point] | None = None,
) -> BaseSampler:
    """A sampler by the name that the scripts know it by.

    `finite-difference` follows central differences with a line search; `released` is the descent of the AutoNAT authors'
    code: one-sided differences, a learning rate and momentum 0.5. The others are Optuna's.

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
    if name in ("finite-difference", "released"):
        settings: dict[str, Any] = {}
        if name == "finite-difference":
            settings = {"central": True, "line_search": LINE_SEARCH}
        trials_per_update = FiniteDifferenceSampler(space, **settings).trials_per_update
        num_updates = (num_trials - 1) // trials_per_update
        if num_updates < 1:
            raise ValueError(f"{num_trials} trials are not enough for one update, which takes {trials_per_update + 1}")
        return FiniteDifferenceSampler(space, num_updates=num_updates, **settings)
    start = {key: parameter.start for key, parameter in space.items()}
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
        "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, x0=start, warn_independent_sampling=False),
        # All trials share their noise, so equal parameters have equal values.
        "gp": lambda seed: optuna.samplers.GPSampler(
            seed=seed, deterministic_objective=True, warn_independent_sampling=False
        ),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=24),
    }

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on experimental and future arguments, once per trial
            return makers[name](seed)

    return ResumableSampler(make, seed, [start] if starts is None else starts)
