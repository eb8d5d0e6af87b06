"""Who a worker is and whether it lives, and that a slot never has two trials."""

import itertools
import subprocess
import sys
import time

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from diffusers_autonat.search import suggest, workers
from diffusers_autonat.search.workers import CLAIM, FAILURE, claim_of, is_lost, slot_of, take_slot, turn_of
from tests.search.descent import SPACE, run


optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_default_patience():
    """An overdue trial is one that takes ten times longer than any before."""
    study = optuna.create_study(sampler=run(num_updates=1).sampler)
    assert workers.patience_with(study.trials) == 7 * 24 * 3600
    study.optimize(lambda trial: suggest(trial, SPACE)["a"], n_trials=1)
    assert workers.patience_with(study.trials) == 60
    trial = study.trials[0]
    trial.system_attrs[CLAIM]["seconds"] = 100.0
    assert workers.patience_with([trial]) == 1000
    assert workers.patience_with([trial], stale_after=5.0) == 5


def test_who_is_gone():
    me = workers.this_worker()
    assert not workers.is_gone(me)
    another = {**me, "started": me["started"] - 3600, "since_boot": me["since_boot"] - 3600}
    assert workers.is_gone(another)  # the id was given to another process
    del another["since_boot"]
    assert workers.is_gone(another) and not workers.is_gone(
        {**another, "started": me["started"]}
    )  # as studies of before say it
    assert not workers.is_gone({**me, "started": me["started"] - 3600})  # the clock was set
    unused = next(pid for pid in range(2**22 - 1, 0, -1) if not psutil.pid_exists(pid))
    assert workers.is_gone({**me, "pid": unused})
    assert not workers.is_gone({**me, "pid": unused, "host": "elsewhere"})


def test_a_process_by_its_id():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        who = workers.process_of(process.pid)
        assert workers.find_process(who).pid == process.pid and workers.is_here(who)
    finally:
        process.kill()
    deadline = time.time() + 30
    while not workers.is_gone(who):  # not waited for yet: a zombie
        assert time.time() < deadline
        time.sleep(0.01)
    process.wait()
    assert workers.find_process(who) is None


@pytest.fixture
def waiting():
    """A study, and three trials of three workers that wait for a slot."""
    study = optuna.create_study()
    me = workers.this_worker()
    crew = [{**me, "thread": number} for number in range(3)]
    trials = [study._storage.get_trial(study._storage.create_new_trial(study._study_id)) for _ in crew]
    for trial, worker in zip(trials, crew):
        workers.wait_for_slot(study, trial, worker)
    return study, trials, crew


OPEN = [([0, place], {"note": place}) for place in range(2)]


def take(waiting, index, seen=None):
    study, trials, crew = waiting
    return take_slot(study, trials[index], crew[index], seen or workers.all_trials(study), OPEN, patience=60)


def slots(waiting):
    return [slot_of(trial) for trial in workers.all_trials(waiting[0])]


def test_the_queue_hands_slots_out_in_order(waiting):
    seen = workers.all_trials(waiting[0])
    assert [take(waiting, index, seen) for index in (2, 1, 0)] == [False, True, True]  # there are two slots
    assert slots(waiting) == [[0, 0], [0, 1], None]
    assert claim_of(waiting[0].trials[1])["note"] == 1


def test_of_two_that_take_the_same_slot_the_second_withdraws(waiting):
    """The second trial's view is from before the first one's claim, and from before it waited."""
    study, trials, crew = waiting
    stale = [trial for trial in workers.all_trials(study) if trial.number == 1]
    assert take(waiting, 0)
    assert not take(waiting, 1, stale)
    assert slots(waiting) == [[0, 0], None, None]


def test_the_slot_of_a_failed_trial_can_be_taken_again(waiting):
    study, trials, crew = waiting
    assert take(waiting, 0)
    workers.end_claim(study, study.trials[0], TrialState.FAIL)
    study._storage.set_trial_state_values(trials[0]._trial_id, TrialState.FAIL)
    assert take(waiting, 1) and slots(waiting) == [[0, 0], [0, 0], None]
    assert not is_lost(study.trials[0])


def test_a_waiting_worker_that_is_silent_holds_no_place_in_the_queue(waiting, monkeypatch):
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert take(waiting, 1) and slots(waiting)[1] == [0, 0]


def test_lost_and_failed_are_told_apart():
    """Also in a plain `optimize`, where nobody writes down why an objective failed."""
    counter = itertools.count()

    def fails_once(params):
        if next(counter) == 1:
            raise ArithmeticError
        return sum(params.values())

    study = run(fails_once, num_updates=1)
    failed = next(trial for trial in study.trials if trial.state == TrialState.FAIL)
    assert not is_lost(failed) and FAILURE not in failed.user_attrs
    trial = study.ask()
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)  # as a heartbeat does
    assert is_lost(study.trials[-1])


def test_turns():
    turns = []
    study = run(num_updates=2)
    study = optuna.create_study(sampler=study.sampler)
    study.enqueue_trial({"a": 0.9})
    study.optimize(lambda trial: turns.append(turn_of(trial)) or suggest(trial, SPACE)["a"])
    assert turns == [0, *[0] * 4, *[1] * 4, 2]
    plain = optuna.create_study()
    plain.optimize(lambda trial: turn_of(trial), n_trials=3)
    assert [trial.value for trial in plain.trials] == [0, 1, 2]
