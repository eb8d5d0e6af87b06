"""Rounds of points shared by workers, with finite differences as the search."""

import threading
import time

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from diffusers_autonat.search import FiniteDifferenceSampler, suggest
from tests.search.descent import SPACE, assert_same_path, base_points, descend, quadratic, run


optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_threads_take_different_points(storage, tmp_path):
    """All of an update runs in parallel, nothing twice, and the path does not depend on the order."""
    barrier = threading.Barrier(4)

    def slow(trial):
        if trial.number < 4:
            barrier.wait(timeout=120)  # passes only if the base point and its three perturbations are all running
        time.sleep(0.001 * (trial.number * 7 % 5))
        return quadratic(suggest(trial, SPACE))

    url = storage and f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=3), storage=url)
    study.optimize(slow, n_jobs=4)
    assert_same_path(base_points(study), descend(quadratic, SPACE, 3))
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == 3 * 4 + 1
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_ask_and_tell_beyond_the_round():
    """A thread that asks for more than a round without telling gets an error instead of waiting for itself."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=1))
    trials = [study.ask() for _ in range(4)]
    with pytest.raises(RuntimeError, match=r"tell the values of trials \[0, 1, 2, 3\]"):
        study.ask()
    for trial in reversed(trials):
        study.tell(trial, quadratic(suggest(trial, SPACE)))
    trial = study.ask()
    study.tell(trial, quadratic(suggest(trial, SPACE)))
    assert_same_path([trials[0].params, trial.params], descend(quadratic, SPACE, 1))
    with pytest.raises(optuna.TrialPruned, match="ended"):
        suggest(study.ask(), SPACE)


def test_enqueued_trials_take_no_point():
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=2))
    study.enqueue_trial({"a": 0.9})
    study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert study.trials[0].params == {"a": 0.9, "b": 3.0, "c": 0.05}
    assert_same_path([t.params for t in study.trials[1::4]], descend(quadratic, SPACE, 2))


def test_copied_trials_take_no_point():
    """Such as those of Optuna's callback that retries what its heartbeat has failed."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=2))
    original = study.ask()
    suggest(original, SPACE)
    study._storage.set_trial_state_values(original._trial_id, TrialState.FAIL)
    copied = study.trials[0]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=copied.params,
            distributions=copied.distributions,
            system_attrs=copied.system_attrs,
        )
    )
    study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert_same_path([t.params for t in study.trials[2::4]], descend(quadratic, SPACE, 2))


def test_interrupted_while_waiting(monkeypatch):
    """A worker that is stopped by Ctrl-C leaves the queue."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=1))
    thread = threading.Thread(target=lambda: [study.ask() for _ in range(4)])
    thread.start()
    thread.join()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.ask()
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 4 + ["FAIL"]


def test_other_settings_are_refused():
    study = run(num_updates=1)
    study.sampler = FiniteDifferenceSampler(SPACE, momentum=0.9)
    with pytest.raises(ValueError, match=r"other settings.*'momentum': \(0.5, 0.9\)"):
        study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert study.trials[-1].state == TrialState.FAIL


def test_range_of_the_objective_must_hold_the_space():
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE))
    with pytest.raises(ValueError, match="the objective asks for b"):
        study.optimize(lambda trial: trial.suggest_float("b", 0.0, 1.0), n_trials=1)


def test_empty_space():
    with pytest.raises(ValueError, match="nothing free"):
        FiniteDifferenceSampler({})


def test_a_point_in_the_kind_of_number_that_is_asked_for():
    """And of no other distribution: a category has no place on the line that is searched."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE))
    asked = {"b": IntDistribution(1, 5), "a": FloatDistribution(0, 1), "elsewhere": CategoricalDistribution(["x"])}
    trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    point = study.sampler.sample_relative(study, trial, asked)
    assert point == {"b": 3, "a": 0.2, "elsewhere": "x"} and isinstance(point["b"], int)
    with pytest.raises(ValueError, match="the objective asks for b in CategoricalDistribution"):
        study.sampler.sample_relative(study, trial, {"b": CategoricalDistribution([3.0])})
