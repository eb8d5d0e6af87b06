"""Workers are real processes and die by SIGKILL; what they leave in the storage is all that the next one has."""

import math
import multiprocessing
import os
import random
import signal
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from diffusers_autonat.search import (
    DescentParameter,
    FiniteDifferenceSampler,
    GreedyLineSearchSampler,
    GridParameter,
    suggest,
    workers,
)
from diffusers_autonat.search.workers import CLAIM


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACES = {
    "finite-difference": {
        "x": DescentParameter(start=0.0, low=-2.0, high=2.0, step=0.1, learning_rate=0.1),
        "y": DescentParameter(start=1.9, low=-2.0, high=2.0, step=0.2, learning_rate=0.2),
    },
    "line-search": {"x": GridParameter(2, (-1, 0, 1, 2)), "y": GridParameter(0, (0, 1, 2, 3))},
}


class MortalBackend(JournalFileBackend):
    """A journal whose process is killed right before its n-th write."""

    def __init__(self, path, dies_at=math.inf):
        super().__init__(path, lock_obj=JournalFileSymlinkLock(path, grace_period=3))
        self._writes_left = dies_at

    def append_logs(self, logs):
        if self._writes_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._writes_left -= 1
        super().append_logs(logs)


def make_sampler(kind, **settings):
    if kind == "finite-difference":
        return FiniteDifferenceSampler(SPACES[kind], num_updates=2, **settings)
    return GreedyLineSearchSampler(SPACES[kind], **settings)


def work(path, kind, dies_at=math.inf, seconds=0.0, host=None, **settings):
    """What every worker runs: join the study, evaluate until the search ends."""
    if host is not None:
        workers._host = lambda: host

    def objective(trial):
        params = suggest(trial, SPACES[kind])
        time.sleep(seconds)
        return (params["x"] - 0.3) ** 2 + (params["y"] - 1.1) ** 2 + 0.5 * params["x"] * params["y"]

    storage = JournalStorage(MortalBackend(path, dies_at))
    sampler = make_sampler(kind, **settings)
    optuna.load_study(study_name="search", storage=storage, sampler=sampler).optimize(objective)


def start(*args, **settings):
    process = multiprocessing.get_context("fork").Process(target=work, args=args, kwargs=settings)
    process.start()
    return process


def new_study(path):
    optuna.create_study(study_name="search", storage=JournalStorage(MortalBackend(str(path))))
    return str(path)


def trials_of(path):
    return optuna.load_study(study_name="search", storage=JournalStorage(MortalBackend(path))).trials


def outcome(path):
    """Everything the search is: the point and value of every slot. No slot has been evaluated twice."""
    complete = [trial for trial in trials_of(path) if trial.state == TrialState.COMPLETE]
    slots = {tuple(trial.system_attrs[CLAIM]["slot"]): (trial.params, trial.value) for trial in complete}
    assert len(slots) == len(complete)
    return slots


def lost(path):
    return [trial for trial in trials_of(path) if trial.user_attrs.get("failure", "").startswith("lost: worker ")]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What a killed process has written stays written; only a crash of the machine needs the (slow) fsync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=list(SPACES))
def kind(request):
    return request.param


@pytest.fixture
def unbroken(tmp_path, kind):
    path = new_study(tmp_path / "unbroken")
    work(path, kind)
    assert {trial.state for trial in trials_of(path)} == {TrialState.COMPLETE}
    return path


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])  # a trial has 7 writes
def test_killed_before_a_write(tmp_path, kind, unbroken, stride):
    """One worker, killed at each point of its run in turn, and started again."""
    expected = outcome(unbroken)
    with open(unbroken) as journal:
        writes = sum(1 for _ in journal) - 1  # without the creation of the study
    for dies_at in range(0, writes, stride):
        path = new_study(tmp_path / f"killed-{dies_at}")
        process = start(path, kind, dies_at)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        finished = outcome(path)
        work(path, kind)
        assert outcome(path) == expected
        assert finished.items() <= expected.items()  # what had finished before the kill was kept, not run again
        assert len(trials_of(path)) - len(expected) <= 1  # and the kill cost one trial at most
        assert {trial.state for trial in lost(path)} <= {TrialState.FAIL}


@pytest.mark.parametrize("dies_at", [None, 4, 9, 16, 25])
def test_two_workers_one_killed(tmp_path, kind, unbroken, dies_at):
    """The other takes over what the dead one had, and nothing is evaluated by both."""
    path = new_study(tmp_path / "two")
    doomed = start(path, kind, dies_at if dies_at is not None else math.inf, seconds=0.02)
    survivor = start(path, kind, seconds=0.02)
    survivor.join()  # the dead worker is a zombie meanwhile
    doomed.join()
    assert survivor.exitcode == 0
    assert outcome(path) == outcome(unbroken)
    states = [trial.state for trial in trials_of(path)]
    assert states.count(TrialState.PRUNED) <= 2  # workers that still waited when the search ended
    if dies_at is None:
        assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    else:
        assert doomed.exitcode == -signal.SIGKILL or states.count(TrialState.FAIL) == 0


def test_two_workers_killed_at_random_moments(tmp_path, kind, unbroken):
    """Both at once, three times over, anywhere: also inside a write to the journal."""
    path = new_study(tmp_path / "random")
    rng = random.Random(0)
    for _ in range(3):
        workers = [start(path, kind, seconds=0.03) for _ in range(2)]
        time.sleep(rng.uniform(0.05, 0.25))
        for worker in workers:
            worker.kill()
            worker.join()
    work(path, kind)
    assert outcome(path) == outcome(unbroken)
    assert len(lost(path)) <= 6


def test_worker_of_another_machine(tmp_path, kind, unbroken):
    """Nobody can see that it died; its trial is taken over when it is overdue."""
    path = new_study(tmp_path / "elsewhere")
    process = start(path, kind, 4, host="elsewhere", stale_after=1.0)
    process.join()
    work(path, kind, stale_after=1.0)
    [trial] = lost(path)
    assert trial.number == 0
    assert "on elsewhere" in trial.user_attrs["failure"]
    assert trial.datetime_complete.timestamp() - trial.system_attrs[CLAIM]["since"] > 1.0
    assert outcome(path) == outcome(unbroken)


def test_waiting_worker_that_is_killed_blocks_nobody(tmp_path, kind, unbroken):
    """A queue of workers for one open point survives the death of its head."""
    path = new_study(tmp_path / "queue")
    workers = [start(path, kind, seconds=0.3) for _ in range(4)]
    time.sleep(0.4)
    for worker in workers[1:]:
        worker.kill()
    workers[0].join()
    assert workers[0].exitcode == 0
    for worker in workers[1:]:
        worker.join()
    assert outcome(path) == outcome(unbroken)
