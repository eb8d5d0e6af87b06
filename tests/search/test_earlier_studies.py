"""Studies recorded when samplers still claimed trials in two ways: every one of them goes on.

The journal holds five, each killed within a trial: the three descents and TPE within the sixth, the two lists of
candidates within the second of three.
"""

import shutil
from pathlib import Path

import optuna
import pytest

from diffusers_autonat import GenerationStrategy, TrainingStrategy
from diffusers_autonat.search import (
    DescentParameter,
    make_sampler,
    open_storage,
    open_study,
    run_study,
    score_candidates,
    suggest,
)
from diffusers_autonat.search.study import complete_trials
from diffusers_autonat.search.workers import is_lost, slot_of


optuna.logging.set_verbosity(optuna.logging.ERROR)

RECORDED = Path(__file__).parents[1] / "fixtures" / "earlier_studies.journal"
SPACE = {
    "x": DescentParameter(start=0.0, low=-2.0, high=2.0, step=0.1, learning_rate=0.1),
    "y": DescentParameter(start=1.5, low=-2.0, high=2.0, step=0.2, learning_rate=0.2),
}


def value(trial):
    params = suggest(trial, SPACE)
    return (params["x"] - 0.3) ** 2 + (params["y"] - 1.1) ** 2


@pytest.fixture
def journal(tmp_path):
    shutil.copy(RECORDED, tmp_path / "journal")
    return tmp_path / "journal"


@pytest.mark.parametrize("name", ["finite-difference", "released", "tpe"])
def test_a_search_ends_as_one_that_begins_today(journal, tmp_path, name):
    outcomes = []
    for place in (journal, tmp_path / "new"):
        study = open_study(open_storage(place), name, {"metric": "fid"}, make_sampler(name, SPACE, 15, seed=3))
        run_study(study, value, 15, progress=False)
        complete = {tuple(slot_of(trial)): (trial.params, trial.values) for trial in complete_trials(study)}
        assert len(complete) == len(complete_trials(study))  # no slot twice
        outcomes.append(complete)
        if place == journal:
            assert [trial.number for trial in study.trials if is_lost(trial)] == [5]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", ["strategies", "training"])
def test_candidates_are_not_scored_again(journal, kind):
    if kind == "strategies":
        candidates = {f"k {k}": GenerationStrategy.cosine(2, guidance_scale=k) for k in (1.0, 2.0, 3.0)}
        identity = {"seed": 9}
    else:
        candidates = {f"Beta({alpha}, 3)": TrainingStrategy(alpha, 3) for alpha in (4, 8, 12)}
        recipes = {label: candidate.to_dict() for label, candidate in candidates.items()}
        identity = {"seed": 9, "candidates": recipes}
    calls = []

    def score(candidate, trial):
        calls.append(candidate)
        return 100.0 + len(calls)

    scored = score_candidates(open_storage(journal), kind, identity, candidates, score, progress=False)
    first, second, third = candidates.values()
    assert calls == [second, third]
    assert [(one.strategy, one.value) for one in scored[1:]] == [(second, 101.0), (third, 102.0)]
    assert scored[0].strategy == first and scored[0].value < 100  # what was recorded
