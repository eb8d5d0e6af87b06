"""Optuna's own samplers, made resumable."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from .interface import Point, SamplerKind, SharedSampler
from .spaces import DescentParameter
from .workers import Worker, is_lost, slot_of


QUEUE = 10.0  # seconds: none waits as long and lives


class ResumableSampler(SharedSampler):
    """Runs another sampler so that a killed and restarted search goes on as if nothing had happened.

    Every trial gets an index: the lowest that no trial holds, lost trials aside. The other sampler is made anew for
    each trial with a seed from that index, so what it proposes depends on the finished trials and on nothing in the
    process. With one worker a search that was killed proposes again what was lost, then what an unbroken one would have
    proposed.

    Args:
        make: Makes the other sampler from a seed.
        seed: Of the whole search.
        starts: Parameters of the first trials; the other sampler proposes from the trial after them on.
        stale_after: See `SharedSampler`.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int = 0,
        starts: Sequence[Mapping[str, Any]] = (),
        stale_after: float | None = None,
    ):
        super().__init__(stale_after)
        self._make = make
        self._seed = seed
        self._starts = list(starts)
        self._running: dict[int, tuple[int, BaseSampler]] = {}  # by trial number: index, and the sampler for it

    def reseed_rng(self) -> None:
        pass  # the seed belongs to the index

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        self._sampler(study._storage.get_trial(trial._trial_id)).before_trial(study, trial)

    def _claim(self, study: Study, trial: FrozenTrial, worker: Worker) -> bool:
        trials = self.fail_lost_trials(study, own=trial.number)
        slots = [slot_of(other) for other in trials if other.number != trial.number and not is_lost(other)]
        taken = {slot[0] for slot in slots if slot is not None}
        open_slots = (([index, 0], dict[str, Any]()) for index in itertools.count() if index not in taken)
        return self._take(study, trial, worker, trials, open_slots)

    def _patience_in_queue(self, trials: list[FrozenTrial]) -> float:
        return QUEUE  # there is always a slot, and it is taken at once

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
        super().after_trial(study, trial, state, values)
        self._sampler(trial).after_trial(study, trial, state, values)
        self._running.pop(trial.number, None)

    def _sampler(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._running:  # a new trial, or one that another process began
            slot = slot_of(trial)
            index = trial.number if slot is None else slot[0]
            self._running[trial.number] = (index, self._make(self._seed + index))
        return self._running[trial.number][1]

    def _index(self, trial: FrozenTrial) -> int:
        self._sampler(trial)
        return self._running[trial.number][0]

    def _start(self, trial: FrozenTrial) -> Mapping[str, Any] | None:
        index = self._index(trial)
        return self._starts[index] if index < len(self._starts) else None


def _kind(
    make: Callable[[int, Point], BaseSampler],
    num_objectives: tuple[int, ...] = (1,),
    rungs: bool = False,
    redraw_noise: bool = True,
) -> SamplerKind:
    """A sampler of Optuna, made from a seed and the start of the space."""

    def make_resumable(
        space: Mapping[str, DescentParameter], num_trials: int, seed: int, starts: Sequence[Mapping[str, Any]]
    ) -> ResumableSampler:
        start = {name: parameter.start for name, parameter in space.items()}

        def make_from_seed(seed: int) -> BaseSampler:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on experimental and future arguments, once per trial
                return make(seed, start)

        return ResumableSampler(make_from_seed, seed, starts)

    return SamplerKind(make_resumable, num_objectives, rungs=rungs, redraw_noise=redraw_noise)


class CmaEsSampler(optuna.samplers.CmaEsSampler):
    """Optuna's, which keeps the optimizer as a pickle in the study: whoever can write there could have code run here."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            attrs = {key: text for key, text in trial.system_attrs.items() if key.startswith(self._attr_key_optimizer)}
            if attrs:
                try:
                    state = bytes.fromhex(self._concat_optimizer_attrs(attrs))
                    return _OptimizerState(io.BytesIO(state)).load()
                except Exception as error:
                    text = f"trial {trial.number} holds no state of CMA-ES ({error}): choose another study"
                    raise ValueError(text) from error
        return None


class _OptimizerState(pickle.Unpickler):
    """Knows the optimizer and NumPy's arrays and nothing else, so that nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        arrays = ("_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype")
        is_array = module.split(".")[0] == "numpy" and name in arrays
        if not is_array and (module, name) != ("cmaes._cma", "CMA"):
            raise pickle.UnpicklingError(f"{module}.{name} is not of an optimizer")
        return super().find_class(module, name)


def _cmaes(seed: int, start: Point) -> BaseSampler:
    return CmaEsSampler(seed=seed, x0=start, warn_independent_sampling=False)


def _gp(seed: int, start: Point) -> BaseSampler:
    # All trials share their noise, so equal parameters have equal values.
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)


RANDOM = _kind(lambda seed, start: optuna.samplers.RandomSampler(seed=seed), (1, 2), rungs=True)
TPE = _kind(
    lambda seed, start: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    (1, 2),
    rungs=True,
)
CMAES = _kind(_cmaes)  # learns from finished trials only
GP = _kind(_gp, redraw_noise=False)  # the same, and takes equal parameters to have equal values
NSGA2 = _kind(lambda seed, start: optuna.samplers.NSGAIISampler(seed=seed, population_size=24), (2,))
