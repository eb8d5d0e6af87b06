"""Searches that proceed in rounds of independent evaluations, written as one generator and run by many workers."""

from __future__ import annotations

import abc
import copy
import dataclasses
import json
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .interface import Point, SharedSampler
from .spaces import Parameter
from .workers import (
    CLAIM,
    Worker,
    all_trials,
    claim_of,
    end_claim,
    is_lost,
    is_running,
    same_thread,
    slot_of,
    write_claim,
)


Rounds = Generator[list[Point], list[Any], None]  # points, and what came of each: its value, see `_outcome`

SETTINGS = "autonat:sampler"  # study system attribute: the settings that all workers must share
ATTEMPTS = 2  # a point whose objective failed is tried once more
_REPLAYING = threading.Lock()  # threads may share a sampler, and with it the generator


@dataclasses.dataclass
class Round:
    """What the storage says about the round in progress, or about the last one if the search has ended."""

    number: int
    points: list[Point]
    holders: list[FrozenTrial | None]  # of each point: the trial that is evaluating it now
    values: list[Any]  # what came of each point, see `_outcome`; None while not known

    @property
    def ended(self) -> bool:
        return None not in self.values

    @property
    def open(self) -> list[int]:
        """Indices of the points that nobody has evaluated or is evaluating."""
        return [i for i, value in enumerate(self.values) if value is None and self.holders[i] is None]


@dataclasses.dataclass
class Replay:
    """A search that stands at a round: all before it are complete in the storage, and that never changes."""

    study: Study
    search: Rounds
    outcome: Callable[[Sequence[FrozenTrial], float], Any]
    points: list[Point]
    number: int = 0

    def current(self, trials: list[FrozenTrial]) -> Round:
        """What trials say about the round at which the search stands."""
        return self._rounds(trials)(self.number, self.points)

    def advance(self, trials: list[FrozenTrial]) -> Round:
        """Run the search on the recorded values, up to the first round that lacks one."""
        look = self._rounds(trials)
        while (current := look(self.number, self.points)).ended:
            try:
                self.points = self.search.send([value for value in current.values if value is not None])
            except StopIteration:
                break
            self.number += 1
        return current

    def _rounds(self, trials: list[FrozenTrial]) -> Callable[[int, list[Point]], Round]:
        sign = -1.0 if self.study.direction == StudyDirection.MAXIMIZE else 1.0
        slots: dict[tuple[int, int], list[FrozenTrial]] = {}
        for trial in trials:
            if (slot := slot_of(trial)) is not None and slot[0] >= self.number:
                slots.setdefault((slot[0], slot[1]), []).append(trial)

        def look(number: int, points: list[Point]) -> Round:
            tried = [slots.get((number, index), []) for index in range(len(points))]
            values = [self.outcome(attempts, sign) for attempts in tried]
            holders = [next((t for t in attempts if is_running(t)), None) for attempts in tried]
            return Round(number, points, holders, values)

        return look


class RoundSampler(SharedSampler):
    """Base of searches that proceed in rounds of points, where all points of a round can be evaluated in parallel.

    A subclass writes the search as a generator `_rounds`, which yields the points of a round and is sent their values.
    It is run from the study's storage alone: before each trial the generator is replayed on the recorded values, up to
    the first round that lacks one, and the trial claims a point of that round.

    - **Workers** may be threads, processes or machines, and may come and go. No point is evaluated twice. When a round
      has no open point left, a worker waits for the last ones, since the next round depends on them.
    - **Lost trials** (see `SharedSampler`) leave their point to the next worker. So does a trial that the storage's own
      heartbeat has failed; Optuna's callback to retry such trials is not needed.
    - **Failed trials** (an exception, NaN) are tried once more. A point that failed twice, or was pruned, has no
      value: the search sees infinity.
    - **The end.** The last trial stops the study, which may so have fewer trials than `optimize` was asked for. A worker
      that was waiting then, or joins later, gets a trial that is pruned at its first parameter.

    Trials enqueued by hand never take a point; parameters they leave free are those of the round's first point.
    Parameters outside the space are left to `independent_sampler`. One in the space is a float on a linear scale in a
    range that holds every point of the space: what the search needs next cannot be had from another distribution, so
    an objective that asks for one gets an error.

    Args:
        space: The parameters by name.
        stale_after: See `SharedSampler`.
        independent_sampler: For parameters outside the space; random by default.
    """

    def __init__(
        self,
        space: Mapping[str, Parameter],
        stale_after: float | None = None,
        independent_sampler: BaseSampler | None = None,
    ):
        if not space:
            raise ValueError("the space has nothing free to search")
        super().__init__(stale_after)
        self._space: Mapping[str, Parameter] = dict(space)
        self._independent_sampler = independent_sampler or RandomSampler()
        self._replayed: Replay | None = None
        self._centre: Point | None = None  # of which the points of the round are small changes; `_rounds` says so

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_replayed": None}  # a generator cannot be copied

    @abc.abstractmethod
    def _rounds(self) -> Rounds:
        """Yield the points of each round and be sent their values, to be minimised; return when the search ends."""

    @abc.abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What decides the course of the search and hence must not change within a study."""

    def has_ended(self, study: Study, num_trials: int | None = None) -> bool:
        """Whether all points of a study have been evaluated, however many: another trial would be pruned."""
        return self._replay(study, all_trials(study)).ended

    def is_taken(self, study: Study, num_trials: int | None = None) -> bool:
        return False  # a trial waits in the queue for its point

    def reseed_rng(self) -> None:
        self._independent_sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if "fixed_params" in trial.system_attrs or trial.params:  # enqueued by hand, or a copy of another trial
            write_claim(study, trial, None)
        else:
            super().before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: FloatDistribution(parameter.low, parameter.high) for name, parameter in self._space.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        claim = claim_of(study._storage.get_trial(trial._trial_id))
        if claim is None:  # not started by `before_trial`
            point = self._replay(study, all_trials(study)).points[0]
        elif claim["slot"] is None:
            raise optuna.TrialPruned("the search has ended: nothing is left to evaluate")
        else:
            point = claim["point"]
        return {
            name: distribution.to_external_repr(point[name])  # an int where ints are asked for
            if name in point and _holds(distribution, point[name])
            else self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        if param_name in self._space:
            raise ValueError(
                f"the objective asks for {param_name} in {param_distribution}, which does not hold the value that the"
                f" search needs next; its space says {self._space[param_name]}"
            )
        return self._independent_sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop the study with the last trial of the search."""
        self._independent_sampler.after_trial(study, trial, state, values)
        claim = end_claim(study, trial, state)
        if claim is None:
            return
        told = copy.copy(trial)
        told.state, told.values = state, values
        told.system_attrs = {**trial.system_attrs, CLAIM: claim}
        trials = [told if t.number == trial.number else t for t in all_trials(study)]
        with _REPLAYING:
            # What is told is not stored yet, so the search that is kept must not go on from it.
            if self._kept(study).current(trials).ended and self._begin(study).advance(trials).ended:
                _stop(study)

    def _claim(self, study: Study, trial: FrozenTrial, worker: Worker) -> bool:
        """Try to take a point; True if the trial has one, or if the search has ended and it never will."""
        self._raise_error_if_multi_objective(study)
        self._check_settings(study)
        trials = self.fail_lost_trials(study, own=trial.number)
        current = self._replay(study, trials)
        if current.ended:
            _stop(study)
            return True
        centre = {} if self._centre is None else {"centre": self._centre}  # what a score may share work with
        open_slots = [([current.number, index], {"point": current.points[index], **centre}) for index in current.open]
        if self._take(study, trial, worker, trials, open_slots):
            return True
        holders = [holder for holder in current.holders if holder is not None]
        claims = [claim for holder in holders if (claim := claim_of(holder))]
        if not current.open and all(same_thread(claim["worker"], worker) for claim in claims):
            raise RuntimeError(
                f"all open points of round {current.number} were handed out to this thread: tell the values of trials"
                f" {[holder.number for holder in holders]} before asking for more"
            )
        return False

    def _replay(self, study: Study, trials: list[FrozenTrial]) -> Round:
        """The round in progress; looking again costs no more than what is new."""
        with _REPLAYING:
            return self._kept(study).advance(trials)

    def _kept(self, study: Study) -> Replay:
        if self._replayed is None or self._replayed.study is not study:
            self._replayed = self._begin(study)
        return self._replayed

    def _begin(self, study: Study) -> Replay:
        search = self._rounds()
        return Replay(study, search, self._outcome, next(search))

    def _outcome(self, attempts: Sequence[FrozenTrial], sign: float) -> Any:
        """What the search is sent for a point from the trials that held it: their value, to be minimised.

        None while it is not known, infinity if there is none.
        """
        for trial in attempts:
            if trial.state == TrialState.COMPLETE:
                return sign * trial.values[0]
        failures = sum(trial.state == TrialState.FAIL and not is_lost(trial) for trial in attempts)
        pruned = any(trial.state == TrialState.PRUNED for trial in attempts)
        return math.inf if pruned or failures >= ATTEMPTS else None

    def _check_settings(self, study: Study) -> None:
        space = {name: dataclasses.asdict(parameter) for name, parameter in self._space.items()}
        settings = json.loads(json.dumps({"sampler": type(self).__name__, "space": space, **self._settings()}))
        stored = study._storage.get_study_system_attrs(study._study_id).get(SETTINGS)
        if stored is None:
            study._storage.set_study_system_attr(study._study_id, SETTINGS, settings)
        elif stored != settings:
            changed = {key: (stored.get(key), settings.get(key)) for key in sorted({*stored, *settings})}
            changed = {key: values for key, values in changed.items() if values[0] != values[1]}
            raise ValueError(f"study {study.study_name!r} was begun with other settings (stored, now): {changed}")


def _holds(distribution: BaseDistribution, value: float) -> bool:
    return not isinstance(distribution, CategoricalDistribution) and distribution._contains(value)


def _stop(study: Study) -> None:
    try:
        study.stop()
    except RuntimeError:
        pass  # ask-and-tell: there is no loop to stop
