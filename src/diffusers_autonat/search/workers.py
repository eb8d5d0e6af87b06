"""Workers that share a study: who they are, which of them are gone, and the claims by which no two run the same trial."""

from __future__ import annotations

import itertools
import math
import os
import platform
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
import psutil
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


Worker = dict[str, Any]  # host, process id and start (by the clock, and since boot), thread
Slot = list[int]  # [turn, place within the turn]: what only one trial at a time may evaluate

CLAIM = "autonat:claim"  # trial system attribute: who runs the trial since when, and its slot, or None while it waits
EARLIER_CLAIM = "autonat:run"  # the same, of studies from before samplers in rounds and others claimed alike
FAILURE = "failure"  # trial user attribute: why there is no value
LOST = "lost: "  # how the reason begins where the worker is to blame and not the trial
SHORTEST_PATIENCE, WEEK = 60.0, 7 * 24 * 3600.0


def all_trials(study: Study) -> list[FrozenTrial]:
    return study._storage.get_all_trials(study._study_id, deepcopy=False)  # not those of one bracket only


# Who a worker is, and whether it lives


def process_of(pid: int) -> Worker:
    """A running process by what tells it from others with its id, before and after, here and elsewhere."""
    boot = psutil.boot_time()
    started = psutil.Process(pid).create_time()
    return {"host": _host(), "pid": pid, "started": started, "since_boot": started - boot}


def this_worker() -> Worker:
    return {**process_of(os.getpid()), "thread": threading.get_ident()}


def same_thread(worker: Worker, other: Worker) -> bool:
    return all(worker[key] == other[key] for key in ("host", "pid", "thread"))


def find_process(worker: Mapping[str, Any]) -> psutil.Process | None:
    """The process of a worker of this machine, or None if it has ended."""
    try:
        process, now = psutil.Process(worker["pid"]), process_of(worker["pid"])
        # On Linux a clock that is set moves the start of all processes, and boot with it; elsewhere it moves boot alone.
        same = (
            abs(now["started"] - worker["started"]) < 10
            or abs(now["since_boot"] - worker.get("since_boot", math.inf)) < 0.005  # starts are rounded to twice that
        )
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def is_here(worker: Mapping[str, Any]) -> bool:
    return worker["host"] == _host()


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether a worker of this machine has ended; of other machines nothing is known."""
    return is_here(worker) and find_process(worker) is None


def _host() -> str:
    """This machine, or this container: where process ids mean the same."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


# Claims


def claim_of(trial: FrozenTrial) -> dict[str, Any] | None:
    """Who runs a trial: `worker`, `since`, `slot`, when it is over `seconds`, and what else its sampler noted.

    None for trials that have no claim: enqueued by hand, or not begun by a sampler of this package.
    """
    attrs = trial.system_attrs
    if CLAIM not in attrs and (old := attrs.get(EARLIER_CLAIM)) is not None:
        return {**old, "slot": [old["index"], 0]}
    return attrs.get(CLAIM)


def slot_of(trial: FrozenTrial) -> Slot | None:
    claim = claim_of(trial)
    return None if claim is None else claim["slot"]


def is_running(trial: FrozenTrial) -> bool:
    """Whether some worker is at it, or waits with it for a slot."""
    return trial.state == TrialState.RUNNING and claim_of(trial) is not None


def is_waiting(trial: FrozenTrial) -> bool:
    """Whether a worker waits with it for a slot."""
    return is_running(trial) and slot_of(trial) is None


def is_nameless(trial: FrozenTrial) -> bool:
    """Whether a trial runs without having said whose it is: its sampler had no time to, or is not of this package."""
    return trial.state == TrialState.RUNNING and not {CLAIM, EARLIER_CLAIM} & set(trial.system_attrs)


def turn_of(trial: optuna.Trial) -> int:
    """Where in the course of the search a trial stands: its round, or its index where trials are not made in rounds.

    A trial enqueued by hand stands at 0; one that no sampler of this package has begun, at its number.
    """
    frozen = trial.study._storage.get_trial(trial._trial_id)
    if (slot := slot_of(frozen)) is not None:
        return slot[0]
    return 0 if CLAIM in frozen.system_attrs else trial.number


def centre_of(trial: optuna.Trial) -> dict[str, Any] | None:
    """The point of which a trial's and others of its round are small changes, where its sampler says so."""
    return (claim_of(trial.study._storage.get_trial(trial._trial_id)) or {}).get("centre")


def write_claim(study: Study, trial: FrozenTrial, claim: Mapping[str, Any] | None) -> None:
    study._storage.set_trial_system_attr(trial._trial_id, CLAIM, claim)


def wait_for_slot(study: Study, trial: FrozenTrial, worker: Worker) -> None:
    """Join the queue for a slot."""
    write_claim(study, trial, {"worker": worker, "since": time.time(), "slot": None})


def take_slot(
    study: Study,
    trial: FrozenTrial,
    worker: Worker,
    trials: Iterable[FrozenTrial],
    open_slots: Iterable[tuple[Slot, dict[str, Any]]],
    patience: float,
) -> bool:
    """Try to take a slot for a waiting trial: the j-th worker in the queue takes the j-th open slot.

    Then the storage is read again, and a trial whose slot another has taken meanwhile withdraws. Whoever wrote second
    sees who was first, so a slot never has two; if each sees the other both withdraw, and the queue decides.

    Args:
        trials: The study's, on which `open_slots` are based.
        open_slots: In the order in which they are handed out, with what the claim is to note beside them.
        patience: Seconds after which a waiting worker counts as gone.

    Returns:
        Whether the trial has a slot now; otherwise try again.
    """
    claims = [claim_of(other) for other in trials if is_running(other) and other.number < trial.number]
    ahead = [claim for claim in claims if claim and claim["slot"] is None and not same_thread(claim["worker"], worker)]
    position = sum(time.time() - claim["since"] < patience for claim in ahead)
    chosen = next(itertools.islice(open_slots, position, None), None)
    if chosen is None:
        return False
    slot, notes = chosen
    write_claim(study, trial, {"worker": worker, "since": time.time(), "slot": slot, **notes})
    holders = {other.number for other in all_trials(study) if slot_of(other) == slot} - {trial.number}
    if not holders or holders <= {other.number for other in trials if slot_of(other) == slot}:
        return True
    wait_for_slot(study, trial, worker)
    return False


# The end of a trial


def end_claim(study: Study, trial: FrozenTrial, state: TrialState) -> dict[str, Any] | None:
    """Note how long a trial took, and whether its objective failed rather than its worker; its claim, if it has one."""
    claim = claim_of(trial)
    if claim is None or claim["slot"] is None:
        return None
    interrupted = trial.user_attrs.get(FAILURE, "").startswith(LOST)
    failed = state == TrialState.FAIL and not interrupted
    claim = {**claim, "seconds": time.time() - claim["since"], "failed": failed}
    write_claim(study, trial, claim)
    return claim


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker: killed, interrupted, or failed by the storage for want of a heartbeat."""
    if trial.state != TrialState.FAIL:
        return False
    unexplained = "" if (claim_of(trial) or {}).get("failed") else LOST
    return trial.user_attrs.get(FAILURE, unexplained).startswith(LOST)


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Trials that are over for good: with a value, pruned, or failed by themselves. Lost ones are run again."""
    return [trial for trial in all_trials(study) if trial.state.is_finished() and not is_lost(trial)]


def patience_with(trials: Iterable[FrozenTrial], stale_after: float | None = None) -> float:
    """Seconds after which a running trial is overdue: `stale_after`, or ten times the longest, see `SharedSampler`."""
    if stale_after is not None:
        return stale_after
    claims = [claim_of(trial) for trial in trials if trial.state == TrialState.COMPLETE]
    seconds = [claim["seconds"] for claim in claims if claim and "seconds" in claim]
    return max(SHORTEST_PATIENCE, 10 * max(seconds)) if seconds else WEEK


def fail_lost_trials(study: Study, stale_after: float | None = None, own: int | None = None) -> list[FrozenTrial]:
    """Mark trials whose worker is gone, or has been silent for too long, as failed; return all trials after that.

    Args:
        stale_after: See `SharedSampler`.
        own: Number of the trial that asks.
    """
    trials = all_trials(study)
    soon = SHORTEST_PATIENCE if stale_after is None else stale_after  # saves a look at all trials
    lost = []
    for trial in trials:
        claim = claim_of(trial) if trial.state == TrialState.RUNNING and trial.number != own else None
        if claim is None:
            continue
        seconds = 0.0 if claim["slot"] is None else time.time() - claim["since"]
        if is_gone(claim["worker"]) or (seconds > soon and seconds > patience_with(trials, stale_after)):
            lost.append(trial)
    for trial in lost:
        fail_lost_trial(study, trial)
    return all_trials(study) if lost else trials


def fail_lost_trial(study: Study, trial: FrozenTrial) -> None:
    """Mark a running trial as failed because its worker is gone."""
    claim = claim_of(trial)
    who = f"worker {claim['worker']['pid']} on {claim['worker']['host']}" if claim else "a worker"
    try:
        study._storage.set_trial_user_attr(trial._trial_id, FAILURE, f"{LOST}{who} ended without reporting a value")
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass  # it finished just now, or another worker was faster
