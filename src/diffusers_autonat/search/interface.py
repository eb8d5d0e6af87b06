"""What every sampler of this package is: a sampler that workers can share, and a line in the registry of `samplers`."""

from __future__ import annotations

import abc
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from .constraints import Constraint
from .objective import METRICS, EvaluatorScore, Score
from .spaces import DescentParameter
from .strategy_spaces import OneLengthSpace
from .workers import (
    Slot,
    Worker,
    all_trials,
    end_claim,
    fail_lost_trials,
    finished_trials,
    is_lost,
    is_running,
    is_waiting,
    patience_with,
    slot_of,
    take_slot,
    this_worker,
    wait_for_slot,
)


logger = logging.getLogger(__name__)

Point = dict[str, float]

POLL = 2.0  # most seconds between two looks at the storage while waiting


class SharedSampler(BaseSampler):
    """Base of samplers whose study any number of workers share, where any of them may be killed at any time.

    Before its parameters are asked for, a trial claims a slot (`workers`) that no other trial has. A subclass says in
    `_claim` which slots are open; the trial waits for as long as it says that there is none. What a slot's point is
    must follow from the study's storage alone.

    A worker that was killed leaves its trial running for ever. The trial counts as lost at once when it ran on this
    machine and its process is gone, otherwise after `stale_after` seconds. It is marked as failed, with the reason in
    the user attribute `failure`, and its slot is open again.

    Args:
        stale_after: Seconds after which a running trial counts as lost; by default ten times the longest finished
            trial and at least a minute, or a week while none has finished. If its worker lives after all, what it then
            reports is left out, so choose more than any trial takes.
    """

    def __init__(self, stale_after: float | None = None):
        self._stale_after = stale_after

    @abc.abstractmethod
    def _claim(self, study: Study, trial: FrozenTrial, worker: Worker) -> bool:
        """Try to `_take` an open slot; True when the trial has one, or never will."""

    def _take(
        self,
        study: Study,
        trial: FrozenTrial,
        worker: Worker,
        trials: list[FrozenTrial],
        open_slots: Iterable[tuple[Slot, dict[str, Any]]],
    ) -> bool:
        """`workers.take_slot` with the patience of this sampler."""
        others_wait = any(is_waiting(other) and other.number != trial.number for other in trials)
        patience = self._patience_in_queue(trials) if others_wait else 0.0  # which may look at all trials
        return take_slot(study, trial, worker, trials, open_slots, patience)

    def _patience_in_queue(self, trials: list[FrozenTrial]) -> float:
        """Seconds after which another worker that waits for a slot counts as gone."""
        return patience_with(trials, self._stale_after)

    def has_ended(self, study: Study, num_trials: int | None = None) -> bool:
        """Whether a study that is to have `num_trials` trials, of all workers together, needs no other."""
        return _slots_below(num_trials, finished_trials(study)) >= (num_trials or 0)

    def is_taken(self, study: Study, num_trials: int | None = None) -> bool:
        """Whether all trials that a study still needs are with other workers, which may die: look again later."""
        taken = [one for one in all_trials(study) if is_running(one) or (one.state.is_finished() and not is_lost(one))]
        return _slots_below(num_trials, taken) >= (num_trials or 0)

    def fail_lost_trials(self, study: Study, own: int | None = None) -> list[FrozenTrial]:
        """Mark lost trials as failed and return all trials after that; `own` is the number of the trial that asks."""
        return fail_lost_trials(study, self._stale_after, own)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Claim a slot for the trial, waiting for one if need be."""
        try:
            worker, delay = this_worker(), 0.01
            wait_for_slot(study, trial, worker)
            while not self._claim(study, trial, worker):
                time.sleep(delay)
                if delay < POLL <= 2 * delay:
                    logger.info("trial %d waits for running trials, on which the next round depends", trial.number)
                delay = min(2 * delay, POLL)
        except BaseException:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            raise

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        end_claim(study, trial, state)


def _slots_below(num_trials: int | None, trials: Iterable[FrozenTrial]) -> int:
    """How many of a study's `num_trials` slots these trials hold; workers that come at once may have begun one too many."""
    return len({slot[0] for trial in trials if (slot := slot_of(trial)) is not None and slot[0] < (num_trials or 0)})


@dataclass(frozen=True)
class SamplerKind:
    """How a sampler is made, and what it is good for: its line in the registry.

    Args:
        make: From the space, the number of trials, the seed and the points to try first to a sampler.
        num_objectives: Of the studies that it can run.
        step_scale: Of the space it is meant for, see `generation_space`.
        rungs: Whether it learns from trials that were given up on the way.
        metrics: Distances that it can follow.
        redraw_noise: Whether the noise may be drawn anew in each turn, since it compares values of one turn only.
        curves: Whether the schedules of many steps are curves where nobody says.
        num_trials: Of a search where nobody says.
        space: What it makes of the space that is searched, and `score` of the score and that space.
        check: Refuses numbers of images for a trial and constraints that it cannot work with, given that space, by a ValueError.
    """

    make: Callable[[Mapping[str, DescentParameter], int, int, Sequence[Mapping[str, Any]]], SharedSampler]
    num_objectives: tuple[int, ...] = (1,)
    step_scale: float = 1.0
    rungs: bool = False
    metrics: tuple[str, ...] = tuple(METRICS)
    redraw_noise: bool = True
    curves: bool = True
    num_trials: int = 300
    space: Callable[[OneLengthSpace], OneLengthSpace] = lambda space: space
    check: Callable[[int, OneLengthSpace, Constraint | None], None] = lambda num_images, space, constraint: None
    score: Callable[[EvaluatorScore, OneLengthSpace], Score] = lambda score, space: score
