"""Gradient descent on finite differences (AutoNAT, section 4.2) as an Optuna sampler, and how such searches share a study.

`RoundSampler` turns any search that proceeds in rounds of independent evaluations into a sampler for many workers;
`FiniteDifferenceSampler` is the paper's search, written as one generator on top of it.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import itertools
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import optuna
import psutil
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .spaces import DescentParameter, Parameter


logger = logging.getLogger(__name__)

Point = dict[str, float]
Rounds = Generator[list[Point], list[float], None]

CLAIM = "autonat:claim"  # trial system attribute: who runs the trial, and which slot it evaluates
SETTINGS = "autonat:sampler"  # study system attribute: the settings that all workers must share
FAILURE = "failure"  # trial user attribute: why there is no value
LOST = "lost: "  # how the reason begins where the worker is to blame and not the point
ATTEMPTS = 2  # a point whose objective failed is tried once more
POLL = 2.0  # most seconds between two looks at the storage while waiting
WEEK = 7 * 24 * 3600.0
LINE_SEARCH = (0.5, 1.0, 2.0, 4.0)  # multiples of the last distance
FIRST_DISTANCE, SHORTEST_DISTANCE = 4.0, 0.5  # in steps: about one in each of a dozen parameters


@dataclasses.dataclass
class Round:
    """What the storage says about the round in progress, or about the last one if the search has ended."""

    number: int
    points: list[Point]
    holders: list[FrozenTrial | None]  # of each point: the trial that is evaluating it now
    values: list[float | None]  # of each point, to be minimised; None while not known

    @property
    def ended(self) -> bool:
        return None not in self.values

    @property
    def open(self) -> list[int]:
        """Indices of the points that nobody has evaluated or is evaluating."""
        return [i for i, value in enumerate(self.values) if value is None and self.holders[i] is None]


class RoundSampler(BaseSampler):
    """Base of searches that proceed in rounds of points, where all points of a round can be evaluated in parallel.

    A subclass writes the search as a generator `_rounds`, which yields the points of a round and is sent their values.
    It is run from the study's storage alone: before each trial the generator is replayed from its beginning on the
    recorded values, up to the first round that lacks one, and the trial *claims* a point of that round.

    - **Workers** may be threads, processes or machines, and may come and go. The j-th waiting worker takes the j-th
      open point, then reads the storage again and withdraws if another trial has the same point: no point is evaluated
      twice. When a round has no open point left, a worker waits for the last ones, since the next round depends on
      them.
    - **Lost trials.** A worker that was killed leaves its trial running for ever. The trial counts as lost at once
      when it ran on this machine and its process is gone, otherwise after `stale_after` seconds. It is marked as
      failed, with the reason in the user attribute `failure`, and its point is open again. So is the point of a trial
      that the storage's own heartbeat has failed; Optuna's callback to retry such trials is not needed.
    - **Failed trials** (an exception, NaN) are tried once more. A point that failed twice, or was pruned, has no
      value: the search sees infinity.
    - **The end.** The last trial stops the study. A worker that was waiting then, or joins later, gets a trial that is
      pruned at its first parameter.

    Trials enqueued by hand never take a point; parameters they leave free are those of the round's first point.
    Parameters outside the space are left to `independent_sampler`.

    Args:
        space: The parameters by name.
        stale_after: Seconds after which a running trial counts as lost; by default ten times the longest finished
            trial and at least a minute, or a week while none has finished. If its worker lives after all, that worker
            ends with an error when it reports the value, so choose more than any trial takes.
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
        self._space: Mapping[str, Parameter] = dict(space)
        self._stale_after = stale_after
        self._independent_sampler = independent_sampler or RandomSampler()

    @abc.abstractmethod
    def _rounds(self) -> Rounds:
        """Yield the points of each round and be sent their values, to be minimised; return when the search ends."""

    @abc.abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What decides the course of the search and hence must not change within a study."""

    def has_ended(self, study: Study) -> bool:
        """Whether all points of a study have been evaluated: another trial would be pruned."""
        return self._replay(study, _all_trials(study)).ended

    def reseed_rng(self) -> None:
        self._independent_sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Claim a point for the trial, waiting for one if need be."""
        if "fixed_params" in trial.system_attrs or trial.params:  # enqueued by hand, or a copy of another trial
            study._storage.set_trial_system_attr(trial._trial_id, CLAIM, None)
            return
        try:
            self._raise_error_if_multi_objective(study)
            self._check_settings(study)
            me = _this_worker()
            _write_claim(study, trial, me)
            delay = 0.01
            while not self._claim(study, trial, me):
                time.sleep(delay)
                if delay < POLL <= 2 * delay:
                    logger.info("trial %d waits for running trials, on which the next round depends", trial.number)
                delay = min(2 * delay, POLL)
        except BaseException:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            raise

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: FloatDistribution(parameter.low, parameter.high) for name, parameter in self._space.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        claim = study._storage.get_trial(trial._trial_id).system_attrs.get(CLAIM)
        if claim is None:  # not started by `before_trial`
            point = self._replay(study, _all_trials(study)).points[0]
        elif claim["slot"] is None:
            raise optuna.TrialPruned("the search has ended: nothing is left to evaluate")
        else:
            point = claim["point"]
        return {name: point[name] for name in search_space}

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
        """Tell a failed objective from a lost trial, and stop the study with the last trial of the search."""
        self._independent_sampler.after_trial(study, trial, state, values)
        claim = trial.system_attrs.get(CLAIM)
        if claim is None or claim["slot"] is None:
            return
        interrupted = trial.user_attrs.get(FAILURE, "").startswith(LOST)
        failed = state == TrialState.FAIL and not interrupted
        claim = {**claim, "failed": failed, "seconds": time.time() - claim["since"]}
        study._storage.set_trial_system_attr(trial._trial_id, CLAIM, claim)
        told = copy.copy(trial)
        told.state, told.values = state, values
        told.system_attrs = {**trial.system_attrs, CLAIM: claim}
        if self._replay(study, [told if t.number == trial.number else t for t in _all_trials(study)]).ended:
            _stop(study)

    def _claim(self, study: Study, trial: FrozenTrial, me: dict[str, Any]) -> bool:
        """Try to take a point; True if the trial has one, or if the search has ended and it never will."""
        trials = self.fail_lost_trials(study, own=trial.number)
        current = self._replay(study, trials)
        if current.ended:
            _stop(study)
            return True

        ahead = [t.system_attrs[CLAIM] for t in trials if t.number < trial.number and _is_running(t)]
        queue = [claim for claim in ahead if claim["slot"] is None and not _same_thread(claim["worker"], me)]
        position = sum(time.time() - claim["since"] < self._patience(trials) for claim in queue)
        if position < len(current.open):
            index = current.open[position]
            slot = [current.number, index]
            _write_claim(study, trial, me, slot, current.points[index])
            if sum(_slot(t) == slot and t.state != TrialState.FAIL for t in _all_trials(study)) == 1:
                return True
            _write_claim(study, trial, me)  # another worker took the same point: both withdraw and queue again
            return False

        holders = [t for t in current.holders if t is not None]
        if not current.open and all(_same_thread(t.system_attrs[CLAIM]["worker"], me) for t in holders):
            raise RuntimeError(
                f"all open points of round {current.number} were handed out to this thread: tell the values of trials"
                f" {[t.number for t in holders]} before asking for more"
            )
        return False

    def _replay(self, study: Study, trials: list[FrozenTrial]) -> Round:
        """Run the search on the recorded values, up to the first round that lacks one."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        slots: dict[tuple[int, int], list[FrozenTrial]] = {}
        for trial in trials:
            if (slot := _slot(trial)) is not None:
                slots.setdefault((slot[0], slot[1]), []).append(trial)

        search = self._rounds()
        points = next(search)
        for number in itertools.count():
            tried = [slots.get((number, index), []) for index in range(len(points))]
            values = [_value(attempts, sign) for attempts in tried]
            holders = [next((t for t in attempts if _is_running(t)), None) for attempts in tried]
            current = Round(number, points, holders, values)
            if not current.ended:
                break
            try:
                points = search.send([value for value in values if value is not None])
            except StopIteration:
                break
        return current

    def fail_lost_trials(self, study: Study, own: int | None = None) -> list[FrozenTrial]:
        """Mark trials whose worker is gone, or has been silent for too long, as failed; return all trials after that.

        Args:
            own: Number of the trial that asks.
        """
        trials = _all_trials(study)
        patience = self._patience(trials)
        lost = []
        for other in trials:
            if other.number == own or not _is_running(other):
                continue
            claim = other.system_attrs[CLAIM]
            overdue = claim["slot"] is not None and time.time() - claim["since"] > patience
            if overdue or _is_gone(claim["worker"]):
                fail_lost_trial(study, other, claim["worker"])
                lost.append(other)
        return _all_trials(study) if lost else trials

    def _patience(self, trials: list[FrozenTrial]) -> float:
        """Seconds after which a running trial is overdue."""
        if self._stale_after is not None:
            return self._stale_after
        finished = [t.system_attrs[CLAIM]["seconds"] for t in trials if _slot(t) and t.state == TrialState.COMPLETE]
        return max(60.0, 10 * max(finished)) if finished else WEEK

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


class FiniteDifferenceSampler(RoundSampler):
    """The paper's gradient descent on finite differences of the objective F.

    Update k evaluates the point x and, for every parameter i, x + e_i step_i, all in parallel, and moves by stochastic
    gradient descent with momentum:

        g_i = (F(x + e_i step_i) - F(x)) / step_i,    v = momentum v + g,    x = clamp(x - learning_rate v)

    `central=True` also evaluates x - e_i step_i and takes g_i between the two outer points: twice the evaluations, an
    error of second instead of first order in the step. At a bound the step goes to the other side, and a point without
    a value (failed twice, pruned, infinite) is left out: g_i is then the slope between the points that remain, and 0 if
    only one does. For a study that maximises, F is negated.

    The released settings are those of `generation_space` with the defaults here. The end of the last update is
    evaluated as well, so a search over n parameters takes `num_updates * (n + 1) + 1` trials.

    With `line_search` learning rates play no part. Slopes are taken per step rather than per unit, so that parameters
    of different scales count alike; v, divided by its length, gives the direction; and points at several distances
    along it are evaluated, in parallel. The search moves to the best of them and tries longer or shorter distances
    next. If none is better than x it stays, forgets v and shortens its steps: with the noise of all trials shared,
    the same steps would tell it the same again. So an update follows a few noisy slopes as far as they hold, where a
    rate that is safe everywhere would need many.

    Example:

        >>> space = generation_space(generation_start(4))
        >>> study = optuna.create_study(sampler=FiniteDifferenceSampler(space))
        >>> study.optimize(lambda trial: score(suggest(trial, space)))

    Args:
        space: Parameters with their start, bounds, steps and learning rates.
        central: Central instead of one-sided differences.
        momentum: Share of the last move's velocity that is kept.
        max_gradient: Bound on the absolute slope of each parameter; `None` leaves slopes as they are.
        line_search: Distances to try, as multiples of the present one (`LINE_SEARCH` is a good choice); none by default.
        num_updates: Length of the search; it may be raised to prolong a study.
        stale_after, independent_sampler: See `RoundSampler`.
    """

    _space: Mapping[str, DescentParameter]

    def __init__(
        self,
        space: Mapping[str, DescentParameter],
        central: bool = False,
        momentum: float = 0.5,
        max_gradient: float | None = None,
        line_search: Sequence[float] = (),
        num_updates: int = 100,
        stale_after: float | None = None,
        independent_sampler: BaseSampler | None = None,
    ):
        super().__init__(space, stale_after, independent_sampler)
        self._central = central
        self._momentum = momentum
        self._max_gradient = max_gradient
        self._line_search = list(line_search)
        self._num_updates = num_updates

    @property
    def num_trials(self) -> int:
        """Length of the search in trials, where none is lost, fails or is saved by a parameter resting on a bound."""
        return self._num_updates * self.trials_per_update + 1

    @property
    def trials_per_update(self) -> int:
        probes = (2 if self._central else 1) * len(self._space)
        return probes + (len(self._line_search) or 1)

    def _settings(self) -> dict[str, Any]:
        return {
            "central": self._central,
            "momentum": self._momentum,
            "max_gradient": self._max_gradient,
            "line_search": self._line_search,
        }

    def _rounds(self) -> Rounds:
        return self._rounds_with_line_search() if self._line_search else self._rounds_with_learning_rate()

    def _rounds_with_learning_rate(self) -> Rounds:
        point = {name: parameter.start for name, parameter in self._space.items()}
        velocity = dict.fromkeys(self._space, 0.0)
        for _ in range(self._num_updates):
            probes = self._probes(point)
            base_value, *values = yield [point, *({**point, name: value} for name, value in probes)]
            slopes = self._slopes(point, base_value, probes, values)
            moved = {}
            for name, parameter in self._space.items():
                velocity[name] = self._momentum * velocity[name] + slopes[name]
                moved[name] = parameter.clamp(point[name] - parameter.learning_rate * velocity[name])
            point = moved
        yield [point]

    def _rounds_with_line_search(self) -> Rounds:
        point = {name: parameter.start for name, parameter in self._space.items()}
        velocity = dict.fromkeys(self._space, 0.0)
        scale, distance = 1.0, FIRST_DISTANCE  # of the steps; of the move, in steps
        [best] = yield [point]
        for _ in range(self._num_updates):
            probes = self._probes(point, scale)
            values = yield [{**point, name: value} for name, value in probes]
            slopes = self._slopes(point, best, probes, values)
            changes = {name: slopes[name] * parameter.step for name, parameter in self._space.items()}
            length = math.hypot(*changes.values())
            if length == 0:  # flat as far as these steps reach
                scale *= 2
                continue
            velocity = {name: self._momentum * velocity[name] + changes[name] / length for name in velocity}
            length = math.hypot(*velocity.values())
            line = [
                {
                    name: parameter.clamp(
                        point[name] - multiple * distance * scale * parameter.step * velocity[name] / length
                    )
                    for name, parameter in self._space.items()
                }
                for multiple in self._line_search
            ]
            values = yield line
            winner = min(range(len(line)), key=values.__getitem__)
            if values[winner] < best:
                point, best = line[winner], values[winner]
                distance = max(SHORTEST_DISTANCE, distance * math.sqrt(self._line_search[winner]))
            else:
                velocity = dict.fromkeys(self._space, 0.0)
                scale, distance = 0.7 * scale, max(SHORTEST_DISTANCE, distance / 2)

    def _probes(self, point: Point, scale: float = 1.0) -> list[tuple[str, float]]:
        """The values of single parameters, other than their own, at which an update evaluates the objective."""
        probes = []
        for name, parameter in self._space.items():
            value, step = point[name], scale * parameter.step
            if self._central:
                steps = [step, -step]
            else:
                steps = [step if value + step <= parameter.high else -step]
            tried = [parameter.clamp(value + step) for step in steps]
            probes += [(name, probe) for probe in tried if probe != value]
        return probes

    def _slopes(self, point: Point, base: float, probes: list[tuple[str, float]], values: list[float]) -> Point:
        bound = math.inf if self._max_gradient is None else self._max_gradient
        curves = {name: [(point[name], base)] for name in self._space}
        for (name, value), f in zip(probes, values):
            curves[name].append((value, f))
        return {name: min(max(_slope(curve), -bound), bound) for name, curve in curves.items()}


def _slope(curve: list[tuple[float, float]]) -> float:
    """Slope between the outermost of the points (x, F(x)) that have a value."""
    known = sorted((x, f) for x, f in curve if math.isfinite(f))
    if len(known) < 2:
        return 0.0
    return (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0])


def _all_trials(study: Study) -> list[FrozenTrial]:
    return study._storage.get_all_trials(study._study_id, deepcopy=False)  # not those of one bracket only


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker: killed, interrupted, or failed by the storage for want of a heartbeat."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(FAILURE, LOST).startswith(LOST)


def fail_lost_trial(study: Study, trial: FrozenTrial, worker: Mapping[str, Any] | None) -> None:
    """Mark a running trial as failed because its worker is gone; `worker` is None where it never said who it is."""
    who = f"worker {worker['pid']} on {worker['host']}" if worker else "a worker"
    try:
        study._storage.set_trial_user_attr(trial._trial_id, FAILURE, f"{LOST}{who} ended without reporting a value")
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass  # it finished just now, or another worker was faster


def _write_claim(
    study: Study, trial: FrozenTrial, worker: dict[str, Any], slot: list[int] | None = None, point: Point | None = None
) -> None:
    """Record who runs a trial, and its slot `[round, index of the point]`, or None while it waits for one."""
    claim = {"worker": worker, "slot": slot, "point": point, "since": time.time(), "failed": False}
    study._storage.set_trial_system_attr(trial._trial_id, CLAIM, claim)


def _slot(trial: FrozenTrial) -> list[int] | None:
    claim = trial.system_attrs.get(CLAIM)
    return claim and claim["slot"]


def _is_running(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and trial.system_attrs.get(CLAIM) is not None


def _value(attempts: list[FrozenTrial], sign: float) -> float | None:
    """The value of a point from the trials that held it: None while unknown, infinity if it has none."""
    for trial in attempts:
        if trial.state == TrialState.COMPLETE:
            return sign * trial.values[0]
    failures = sum(trial.state == TrialState.FAIL and trial.system_attrs[CLAIM]["failed"] for trial in attempts)
    pruned = any(trial.state == TrialState.PRUNED for trial in attempts)
    return math.inf if pruned or failures >= ATTEMPTS else None


def _stop(study: Study) -> None:
    try:
        study.stop()
    except RuntimeError:
        pass  # ask-and-tell: there is no loop to stop


def _this_worker() -> dict[str, Any]:
    started = psutil.Process().create_time()
    return {"host": _host(), "pid": os.getpid(), "started": started, "thread": threading.get_ident()}


def _host() -> str:
    """This machine, or this container: where process ids mean the same."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


def _same_thread(worker: dict[str, Any], me: dict[str, Any]) -> bool:
    return all(worker[key] == me[key] for key in ("host", "pid", "thread"))


def _is_gone(worker: dict[str, Any]) -> bool:
    """Whether a worker of this machine has ended; of other machines nothing is known."""
    if worker["host"] != _host():
        return False
    try:
        process = psutil.Process(worker["pid"])
        reused = abs(process.create_time() - worker["started"]) > 10  # the clock may have been set meanwhile
        return reused or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
