"""What a new sampler has to say about itself, with one that works in batches of updates: state in the study, own end."""

import optuna
import pytest
from optuna.trial import TrialState

from diffusers_autonat.search import (
    DescentParameter,
    SamplerKind,
    SharedSampler,
    make_sampler,
    open_storage,
    open_study,
    run_study,
    suggest,
)
from diffusers_autonat.search.samplers import SAMPLERS, sampler_names
from diffusers_autonat.search.study import wait_for_workers
from diffusers_autonat.search.workers import claim_of, finished_trials, slot_of, turn_of


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {"x": DescentParameter(start=0.5, low=0.0, high=4.0, step=0.1, learning_rate=0.1)}
UPDATES, BATCHES = 3, 2


class Doubling(SharedSampler):
    """Each update evaluates x in two batches, then goes on to 2x; x is an attribute of the study."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def has_ended(self, study, num_trials=None):
        return len(finished_trials(study)) == UPDATES * BATCHES

    def is_taken(self, study, num_trials=None):
        return False

    def _claim(self, study, trial, worker):
        trials = self.fail_lost_trials(study, own=trial.number)
        held = [slot_of(one) for one in trials if one.state in (TrialState.RUNNING, TrialState.COMPLETE)]
        update = len(finished_trials(study)) // BATCHES
        notes = {"x": study.user_attrs.get(f"x{update}", self.start)}
        return self._take(
            study, trial, worker, trials, [([update, i], notes) for i in range(BATCHES) if [update, i] not in held]
        )

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        return claim_of(study._storage.get_trial(trial._trial_id))["x"]

    def after_trial(self, study, trial, state, values):
        super().after_trial(study, trial, state, values)
        if state == TrialState.COMPLETE:
            study.set_user_attr(f"x{slot_of(trial)[0] + 1}", 2 * trial.params["x"])


@pytest.fixture
def registered(monkeypatch):
    kind = SamplerKind(lambda space, num_trials, seed, starts: Doubling(starts[0]["x"]), num_objectives=(1,))
    monkeypatch.setitem(SAMPLERS, "doubling", kind)


def test_a_new_sampler_is_one_line_of_the_registry(tmp_path, registered):
    assert "doubling" in sampler_names(1) and "doubling" not in sampler_names(2)
    study = open_study(open_storage(tmp_path / "s"), "s", {}, make_sampler("doubling", SPACE, 100))
    turns = []

    def objective(trial):
        turns.append(turn_of(trial))
        if len(turns) == 4:
            raise KeyboardInterrupt
        return suggest(trial, SPACE)["x"]

    with pytest.raises(KeyboardInterrupt):
        run_study(study, objective, 100, progress=False)
    run_study(study, objective, 100, progress=False)
    wait_for_workers(study)
    assert turns == [0, 0, 1, 1, 1, 2, 2]
    assert [trial.value for trial in finished_trials(study)] == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]


def test_a_sampler_that_cannot_be_shared_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"cannot share a RandomSampler: use ResumableSampler\(lambda seed: Random"):
        open_study(open_storage(tmp_path / "s"), "s", {}, optuna.samplers.RandomSampler())
    assert not optuna.get_all_study_names(open_storage(tmp_path / "s"))
