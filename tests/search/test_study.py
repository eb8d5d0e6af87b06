"""Studies of every sampler: resumed exactly, shared by workers, refused where they do not belong."""

import multiprocessing
import os
import signal
import time

import optuna
import pytest
import torch
from optuna.trial import TrialState

from diffusers_autonat.search import (
    DescentParameter,
    make_sampler,
    open_storage,
    open_study,
    run_study,
    suggest,
)
from diffusers_autonat.search import study as study_module
from diffusers_autonat.search.study import complete_trials, wait_for_workers
from diffusers_autonat.search.workers import (
    FAILURE,
    fail_lost_trial,
    finished_trials,
    is_lost,
    slot_of,
    this_worker,
    write_claim,
)


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    "x": DescentParameter(start=0.0, low=-2.0, high=2.0, step=0.1, learning_rate=0.1),
    "y": DescentParameter(start=1.5, low=-2.0, high=2.0, step=0.2, learning_rate=0.2),
}
IDENTITY = {"pipeline": "abc", "num_inference_steps": [4], "metric": "fid"}
NUM_TRIALS = 15


def value(trial):
    params = suggest(trial, SPACE)
    return (params["x"] - 0.3) ** 2 + (params["y"] - 1.1) ** 2


def open_it(path, sampler, identity=IDENTITY):
    return open_study(open_storage(path), "search", identity, make_sampler(sampler, SPACE, NUM_TRIALS, seed=3))


def work(path, sampler, dies_in=None, seconds=0.0):
    """One worker; killed within its n-th trial."""
    count = 0

    def objective(trial):
        nonlocal count
        count += 1
        result = value(trial)
        time.sleep(seconds)
        if count == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    run_study(open_it(path, sampler), objective, NUM_TRIALS, progress=False)


def start(*args, **settings):
    process = multiprocessing.get_context("fork").Process(target=work, args=args, kwargs=settings)
    process.start()
    return process


def outcome(path, sampler):
    """Points and values in the order of the search."""
    return sorted(((t.params, t.values) for t in complete_trials(open_it(path, sampler))), key=lambda pair: str(pair))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("sampler", ["finite-difference", "released", "tpe", "cmaes", "random"])
def test_a_killed_search_ends_where_an_unbroken_one_does(tmp_path, sampler):
    work(tmp_path / "unbroken", sampler)
    expected = outcome(tmp_path / "unbroken", sampler)
    for dies_in in (1, 6, 14):
        path = tmp_path / f"killed-{dies_in}"
        process = start(path, sampler, dies_in)
        process.join()
        if process.exitcode == 0:  # finite differences made fewer trials than that
            continue
        assert process.exitcode == -signal.SIGKILL
        before = complete_trials(open_it(path, sampler)) if dies_in > 1 else []
        work(path, sampler)
        assert outcome(path, sampler) == expected
        after = open_it(path, sampler).trials
        assert [t.values for t in sorted(before, key=lambda t: t.number)] == [t.values for t in after[: len(before)]]
        assert sum(is_lost(t) for t in after) == 1
        assert "ended without reporting a value" in next(t for t in after if is_lost(t)).user_attrs[FAILURE]


@pytest.mark.parametrize("sampler", ["finite-difference", "tpe"])
def test_a_worker_of_another_machine_that_died_waiting_blocks_nobody(tmp_path, sampler):
    """Nobody can see that it died, and nothing will come of its trial."""
    study = open_it(tmp_path / "s", sampler)
    waiting = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    write_claim(
        study,
        waiting,
        {"worker": {**this_worker(), "host": "elsewhere"}, "since": time.time() - 8 * 24 * 3600, "slot": None},
    )
    work(tmp_path / "s", sampler)
    wait_for_workers(study)
    assert study.trials[0].state == TrialState.RUNNING


@pytest.mark.parametrize("sampler", ["finite-difference", "tpe"])
def test_two_workers_one_killed(tmp_path, sampler):
    path = tmp_path / "two"
    doomed = start(path, sampler, dies_in=3, seconds=0.02)
    survivor = start(path, sampler, seconds=0.02)
    survivor.join()
    doomed.join()
    assert survivor.exitcode == 0 and doomed.exitcode == -signal.SIGKILL
    study = open_it(path, sampler)
    wait_for_workers(study)
    assert sum(is_lost(t) for t in study.trials) <= 1
    if sampler == "tpe":
        assert NUM_TRIALS <= len(finished_trials(study)) <= NUM_TRIALS + 1
        indices = [slot_of(t)[0] for t in study.trials if t.state == TrialState.COMPLETE]
        assert len(set(indices)) == len(indices)
    else:
        work(tmp_path / "one", sampler)
        assert outcome(path, sampler) == outcome(tmp_path / "one", sampler)


def test_a_finished_search_is_left_alone(tmp_path):
    for sampler in ("finite-difference", "random"):
        work(tmp_path / sampler, sampler)
        number = len(open_it(tmp_path / sampler, sampler).trials)
        work(tmp_path / sampler, sampler)
        assert len(open_it(tmp_path / sampler, sampler).trials) == number


@pytest.mark.parametrize("sampler", ["released", "random"])
def test_failed_trials_are_recorded_and_the_search_goes_on(tmp_path, sampler):
    def objective(trial):
        if trial.number in (1, 2):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float("nan") if trial.number == 3 else value(trial)

    study = open_it(tmp_path / "s", sampler)
    run_study(study, objective, 10, progress=False)
    reasons = [t.user_attrs[FAILURE] for t in study.trials if t.state == TrialState.FAIL]
    assert reasons[:2] == ["OutOfMemoryError: CUDA out of memory"] * 2
    assert reasons[2] == "ValueError: the value is nan, not a finite number"
    assert len(complete_trials(study)) >= 7
    if sampler == "random":
        assert len(finished_trials(study)) == 10  # failures count: the same point would fail again


def test_all_failed(tmp_path):
    study = open_it(tmp_path / "s", "random")
    run_study(study, lambda trial: 1 / 0, 2, progress=False)
    with pytest.raises(ValueError, match="no finished trial: all failed, the first with 'ZeroDivisionError"):
        complete_trials(study)


@pytest.mark.parametrize("sampler", ["finite-difference", "random"])
def test_an_interruption_gives_the_trial_back(tmp_path, sampler):
    work(tmp_path / "unbroken", sampler)
    for _ in range(3):  # more often than a point may fail

        def objective(trial):
            if len(trial.study.trials) % 4 == 3:
                raise KeyboardInterrupt
            return value(trial)

        with pytest.raises(KeyboardInterrupt):
            run_study(open_it(tmp_path / "s", sampler), objective, NUM_TRIALS, progress=False)
    work(tmp_path / "s", sampler)
    assert outcome(tmp_path / "s", sampler) == outcome(tmp_path / "unbroken", sampler)


@pytest.mark.parametrize("sampler", ["finite-difference", "tpe"])
def test_a_trial_that_others_gave_up_is_left_out_and_its_worker_goes_on(tmp_path, sampler, caplog):
    """As where a machine slept: the first worker to wake takes the trials of all others for lost."""
    work(tmp_path / "unbroken", sampler)

    def objective(trial):
        if trial.number in (3, 4):
            fail_lost_trial(trial.study, trial.study.trials[trial.number])
        if trial.number == 4:
            trial.set_user_attr("passes", 7)  # which nobody may say of a trial that has ended
        if trial.number == 7:
            fail_lost_trial(trial.study, trial.study.trials[7])
            raise KeyboardInterrupt
        return value(trial)

    with pytest.raises(KeyboardInterrupt):
        run_study(open_it(tmp_path / "s", sampler), objective, NUM_TRIALS, progress=False)
    assert [record.args for record in caplog.records if "gave it up" in record.message] == [(3,), (4,)]
    work(tmp_path / "s", sampler)
    assert outcome(tmp_path / "s", sampler) == outcome(tmp_path / "unbroken", sampler)


@pytest.mark.parametrize(
    "change",
    [{"pipeline": "xyz"}, {"num_inference_steps": [8]}, {"metric": "kid"}],
    ids=lambda change: next(iter(change)),
)
def test_another_study_is_refused_by_name(tmp_path, change):
    open_it(tmp_path / "s", "random")
    open_it(tmp_path / "s", "random")
    [(key, here)] = change.items()
    with pytest.raises(ValueError, match=rf"{key} .*{IDENTITY[key]}.* there and .*{here}.* here".replace("[", r"\[")):
        open_it(tmp_path / "s", "random", {**IDENTITY, **change})


def test_a_study_of_someone_else_is_refused(tmp_path):
    storage = open_storage(tmp_path / "s")
    optuna.create_study(study_name="search", storage=storage).optimize(value, n_trials=1)
    with pytest.raises(ValueError, match="was not begun by this package"):
        open_it(tmp_path / "s", "random")


@pytest.mark.parametrize("sees_its_trial", [False, True])
def test_a_study_that_another_worker_begins_at_the_same_moment_is_joined(tmp_path, monkeypatch, sees_its_trial):
    """It says what the study is about, and begins a trial, while this one looks."""
    all_trials, came = study_module.all_trials, []

    def overtaken(study):
        seen = all_trials(study)
        if not came:
            came.append("the other")
            open_it(tmp_path / "s", "random").ask()
            return all_trials(study) if sees_its_trial else seen
        return seen

    monkeypatch.setattr(study_module, "all_trials", overtaken)
    assert len(open_it(tmp_path / "s", "random").get_trials()) == 1


def test_storage_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written: "):
        open_storage(tmp_path / "file" / "journal")
    with pytest.raises(ValueError, match="cannot be written: Is a directory"):
        open_storage(tmp_path)
    with pytest.raises(ValueError, match="sqlite:////nowhere/s.db cannot be opened: .*unable to open"):
        open_storage("sqlite:////nowhere/s.db")


def test_database(tmp_path):
    study = open_study(open_storage(f"sqlite:///{tmp_path}/s.db"), "s", IDENTITY, make_sampler("random", SPACE, 3))
    run_study(study, value, 3, progress=False)
    assert len(complete_trials(study)) == 3


def test_of_equal_trials_the_earlier_slot_is_first_whoever_ran_it(tmp_path):
    """A worker dies at the first point; another, which is at the second, makes up for it afterwards."""
    study = open_it(tmp_path / "s", "random")
    first, second = study.ask(), study.ask()
    study._storage.set_trial_user_attr(first._trial_id, FAILURE, "lost: worker 1 ended")
    study.tell(first, state=TrialState.FAIL)
    study.tell(second, 1.0)
    study.tell(study.ask(), 1.0)
    study.tell(study.ask(), 0.5)
    assert [slot_of(trial)[0] for trial in complete_trials(study)] == [2, 0, 1]
    assert [trial.number for trial in complete_trials(study)] == [3, 2, 1]
