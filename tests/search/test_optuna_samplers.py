"""Optuna's samplers, made so that what they propose follows from the storage alone."""

import pickle

import optuna
import pytest
from optuna.trial import TrialState

from diffusers_autonat.search import (
    DescentParameter,
    ResumableSampler,
    make_sampler,
    open_storage,
    open_study,
    run_study,
    suggest,
)
from diffusers_autonat.search.workers import CLAIM, FAILURE, claim_of, is_lost, slot_of


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    "x": DescentParameter(start=0.0, low=-2.0, high=2.0, step=0.1, learning_rate=0.1),
    "y": DescentParameter(start=1.5, low=-2.0, high=2.0, step=0.2, learning_rate=0.2),
}
IDENTITY = {"metric": "fid"}


def value(trial):
    params = suggest(trial, SPACE)
    return (params["x"] - 0.3) ** 2 + (params["y"] - 1.1) ** 2


def test_gp_is_resumed_by_its_trials_alone(tmp_path):
    """Its eleventh trial, the first that it models, is the same in another process."""
    proposals = []
    for name in ("one", "two"):
        sampler = make_sampler("gp", SPACE, 12, seed=3)
        study = open_study(open_storage(tmp_path / name), "search", IDENTITY, sampler)
        run_study(study, value, 11, progress=False)
        if name == "two":
            study = open_study(
                open_storage(tmp_path / name), "search", IDENTITY, make_sampler("gp", SPACE, 12, seed=3)
            )
        run_study(study, value, 12, progress=False)
        proposals.append(study.trials[-1].params)
    assert proposals[0] == proposals[1]


def test_the_first_trial_is_the_start(tmp_path):
    study = open_study(open_storage(tmp_path / "s"), "s", IDENTITY, make_sampler("random", SPACE, 2))
    run_study(study, value, 2, progress=False)
    assert study.trials[0].params == {"x": 0.0, "y": 1.5}
    assert study.trials[1].params != study.trials[0].params


def test_silent_worker_of_another_machine(tmp_path):
    """Nothing is known about its process; its trial is lost when it is overdue, and its index is free again."""
    sampler = make_sampler("random", SPACE, 3)
    study = open_study(open_storage(tmp_path / "s"), "s", IDENTITY, sampler)
    trial = study.ask()
    claim = claim_of(study.trials[0])
    elsewhere = {**claim, "worker": {**claim["worker"], "host": "elsewhere"}}
    study._storage.set_trial_system_attr(trial._trial_id, CLAIM, elsewhere)
    study.sampler = ResumableSampler(sampler._make, stale_after=3600)
    assert study.ask().number == 1 and study.trials[0].state == TrialState.RUNNING
    study.sampler = ResumableSampler(sampler._make, stale_after=0.0)
    study.ask()
    assert is_lost(study.trials[0]) and slot_of(study.trials[2]) == [0, 0]


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["call", "text", "global"])
def test_a_study_cannot_run_code(tmp_path, kind):
    """Optuna's CMA-ES keeps its optimizer as a pickle in the trials' attributes."""
    harm = {"call": pickle.dumps(Touch(tmp_path / "harm")).hex(), "text": "no hex", "global": pickle.dumps(exec).hex()}

    def objective(trial):
        if trial.number == 29:
            study._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", harm[kind])
        return value(trial)

    study = open_study(open_storage(tmp_path / "s"), "s", IDENTITY, make_sampler("cmaes", SPACE, 50))
    run_study(study, objective, 30, progress=False)
    assert any("cma:optimizer:0" in trial.system_attrs for trial in study.trials[:29])  # it goes on from such states
    run_study(study, objective, 31, progress=False)
    reason = study.trials[-1].user_attrs[FAILURE]
    assert "trial 29 holds no state of CMA-ES (" in reason and "choose another study" in reason and "\n" not in reason
    assert not (tmp_path / "harm").exists()
