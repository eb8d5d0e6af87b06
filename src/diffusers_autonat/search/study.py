"""Studies that many workers share, that survive kills, and that refuse to mix what does not belong together."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from .interface import SharedSampler
from .journal import open_journal
from .objective import is_population
from .workers import FAILURE, LOST, all_trials, fail_lost_trial, is_lost, is_nameless, is_waiting, slot_of


logger = logging.getLogger(__name__)

IDENTITY = "identity"  # study user attribute: what the study is about
HEARTBEAT = 60  # seconds between two signs of life of a worker in a database
NAMELESS = 10  # seconds after which a running trial that no worker has claimed counts as lost
POLL = 1.0  # seconds between two looks at the storage while waiting

Objective = Callable[[optuna.Trial], float | Sequence[float]]


def open_storage(location: str | Path) -> BaseStorage:
    """Open what all workers of a study share.

    Args:
        location: A file (Optuna's JournalStorage, also on NFS), created with its folder, see `open_journal`; or the URL
            of a database, such as `postgresql+psycopg://...` or `sqlite:///study.db`, whose workers give signs of life.

    Raises:
        ValueError: it cannot be written, or is something else.
    """
    if "://" in str(location):
        try:
            return RDBStorage(str(location), heartbeat_interval=HEARTBEAT, grace_period=3 * HEARTBEAT)
        except Exception as error:  # SQLAlchemy, its drivers and missing drivers have no common base
            reason = str(error).strip().splitlines()[0]
            if isinstance(error, ImportError) and str(location).startswith("postgresql"):
                reason = (
                    'its driver is not installed: pip install "psycopg[binary]" and write postgresql+psycopg://...'
                )
            raise ValueError(f"the storage {location} cannot be opened: {reason}") from error
    path = Path(location)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"the storage {location} cannot be locked: its folder is not writable")
        return open_journal(path)
    except OSError as error:
        raise ValueError(f"the storage {location} cannot be written: {error.strerror}") from error


def open_study(
    storage: BaseStorage,
    name: str,
    identity: Mapping[str, Any],
    sampler: SharedSampler,
    directions: Sequence[Literal["minimize", "maximize"]] = ("minimize",),
    pruner: BasePruner | None = None,
) -> Study:
    """Create a study, or join it if it is about the same thing.

    Args:
        storage: From `open_storage`.
        name: Of the study.
        identity: What decides a trial's value: weights, T, metric, N, extractor, reference and so on, as JSON data.
        sampler: Any `SharedSampler`: from `make_sampler`, or one of Optuna's in a `ResumableSampler`.
        directions, pruner: As `optuna.create_study` takes them.

    Raises:
        ValueError: the study is about something else, and about what; or workers cannot share the sampler.
    """
    _shared(sampler)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        pruner=pruner or optuna.pruners.NopPruner(),
        directions=list(directions),
        load_if_exists=True,
    )
    trials = all_trials(study)  # before what it is about: another worker that begins it now says that first
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        if trials:
            raise ValueError(f"study {name!r} was not begun by this package: give another --study-name or --output")
        study.set_user_attr(IDENTITY, dict(identity))
        stored = study.user_attrs[IDENTITY]  # as JSON, and another worker may have been faster
    keys = [key for key in {**stored, **identity} if stored.get(key) != _as_json(identity.get(key))]
    if keys:
        differences = "; ".join(f"{key} {stored.get(key)!r} there and {identity.get(key)!r} here" for key in keys)
        raise ValueError(
            f"study {name!r} is about something else ({differences}): give another --study-name or --output"
        )
    return study


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Trials with a value, best first where there is one objective, otherwise by number.

    Of equal ones the earlier in the course of the search is first, whoever ran it and however often.

    Raises:
        ValueError: there is none, with the reason of the first failure.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    if not complete:
        reasons = [t.user_attrs[FAILURE] for t in trials if FAILURE in t.user_attrs]
        because = f": all failed, the first with {reasons[0]!r}" if reasons else " yet"
        raise ValueError(f"study {study.study_name!r} has no finished trial{because}")
    if len(study.directions) > 1:
        return complete
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    return sorted(complete, key=lambda t: (sign * t.values[0], slot_of(t) or [], t.number))


def run_study(study: Study, objective: Objective, num_trials: int | None, progress: bool = True) -> None:
    """Work on a study until it is finished, together with all other workers that do the same.

    A trial whose objective raises, runs out of memory or gives no finite value is recorded as failed with the reason
    (user attribute `failure`), and the search goes on. On Ctrl-C the running trial is given back and
    `KeyboardInterrupt` is raised; the same call goes on later.

    Args:
        study: From `open_study`.
        objective: From a trial to its value or values.
        num_trials: How many trials the study is to have in the end, of all workers together. Samplers that know their
            own end, such as those in rounds, go on to it; for them it is only the length of the progress bar.
        progress: Show a bar.
    """
    with tqdm(total=num_trials, desc=study.study_name, unit="trial", disable=not progress) as bar:
        show = _Progress(bar)
        show(study)
        guarded = _guarded(objective)
        sampler = _shared(study.sampler)
        while not sampler.has_ended(study, num_trials):
            sampler.fail_lost_trials(study)
            if sampler.is_taken(study, num_trials):
                time.sleep(POLL)
            else:
                _run_trial(study, guarded)
            show(study)


def _run_trial(study: Study, objective: Objective) -> None:
    """A trial of this worker. If another has given it up before it ended, as after a night's sleep, what it gives is left out."""
    begun: list[int] = []
    interrupted = False

    def watched(trial: optuna.Trial) -> float | Sequence[float]:
        nonlocal interrupted
        begun.append(trial._trial_id)
        try:
            return objective(trial)
        except KeyboardInterrupt:
            interrupted = True
            raise

    try:
        study.optimize(watched, n_trials=1, catch=(Exception,))
    except ValueError:  # it has ended for the storage
        if not begun or not is_lost(trial := study._storage.get_trial(begun[0])):
            raise
        if interrupted:
            raise KeyboardInterrupt from None
        logger.warning("trial %d took so long that another worker gave it up; it is left out", trial.number)


def wait_for_workers(study: Study) -> None:
    """Return when no trial is running: from then on every worker sees the same finished study."""
    while True:
        _shared(study.sampler).fail_lost_trials(study)
        # One that waits for a slot gets none any more; its worker may be of another machine, and dead.
        running = [t for t in all_trials(study) if t.state == TrialState.RUNNING and not is_waiting(t)]
        for trial in running:
            # Killed between creating the trial and saying whose it is, which takes no time.
            started = trial.datetime_start
            if is_nameless(trial) and started and (datetime.now() - started).total_seconds() > NAMELESS:
                fail_lost_trial(study, trial)
        if not running:
            return
        logger.info("waiting for trials %s of other workers", [trial.number for trial in running])
        time.sleep(POLL)


def _shared(sampler: BaseSampler) -> SharedSampler:
    if not isinstance(sampler, SharedSampler):
        name = type(sampler).__name__
        raise ValueError(
            f"workers cannot share a {name}: use ResumableSampler(lambda seed: {name}(seed=seed)), or make_sampler"
        )
    return sampler


class _Progress:
    def __init__(self, bar: tqdm):
        self.bar = bar

    def __call__(self, study: Study) -> None:
        if self.bar.disable:
            return
        trials = all_trials(study)
        self.bar.n = sum(trial.state.is_finished() and not is_lost(trial) for trial in trials)
        shown: dict[str, Any] = {}
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        values = [trial.values[0] for trial in complete if not is_population(trial)]
        if len(study.directions) == 1 and values:
            best = max(values) if study.direction == StudyDirection.MAXIMIZE else min(values)
            shown = {"best": f"{best:.4g}"}
        elif complete and not values:  # of many strategies: where the search stands, and no best
            shown = {"population": f"{complete[-1].values[0]:.4g}"}
        failed = sum(t.state == TrialState.FAIL for t in trials)
        self.bar.set_postfix({**shown, **({"failed": failed} if failed else {})})


def _guarded(objective: Objective) -> Objective:
    """The objective, which also records why it failed."""

    def guarded(trial: optuna.Trial) -> float | Sequence[float]:
        try:
            result = objective(trial)
            values = result if isinstance(result, Sequence) else [result]
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"the value is {result}, not a finite number")
            return result
        except optuna.TrialPruned:
            raise
        except KeyboardInterrupt:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker gave it up
                trial.set_user_attr(FAILURE, f"{LOST}the worker was interrupted")
            raise
        except Exception as error:
            trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            raise

    return guarded
