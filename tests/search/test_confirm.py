"""Winners measured again: on fresh noise, once each, and resumable."""

import multiprocessing
import os
import signal

import optuna
import pytest

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.search import (
    FixedStepsSpace,
    make_sampler,
    open_storage,
    score_candidates,
    search_generation,
)
from diffusers_autonat.search.confirm import CANDIDATES, best_trials
from diffusers_autonat.search.optuna_samplers import ResumableSampler
from diffusers_autonat.search.workers import this_worker, write_claim


optuna.logging.set_verbosity(optuna.logging.ERROR)

START = GenerationStrategy.cosine(2)
SEARCH, FRESH = {"num_images": 10, "seed": 0}, {"num_images": 50, "seed": 9}


def lucky(strategy, trial):
    """The truth, but with noise that makes one trial look best."""
    return sum(strategy.guidance_scales) - (100 if trial.number == 3 else 0)


def truth(strategy, trial):
    return sum(strategy.guidance_scales)


def search(path, top=3, num_trials=12, confirm_score=truth, **settings):
    space = FixedStepsSpace(START, ["guidance_scales"])
    return search_generation(
        open_storage(path), "s", SEARCH, space, lucky, make_sampler("random", space.parameters, num_trials), num_trials,
        confirm_score=confirm_score, confirm_identity=FRESH, confirm_top=top, also={"start": START}, progress=False,
        **settings,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_the_winner_is_not_the_lucky_one(tmp_path):
    found = search(tmp_path / "s")
    assert found.study.best_trial.number == 3
    assert found.confirmed and len(found.candidates) == 4
    values = [one.value for one in found.candidates]
    assert values == sorted(values) == [sum(one.strategy.guidance_scales) for one in found.candidates]
    assert found.candidates[0].label != "trial 3" and "trial 3" in {one.label for one in found.candidates}
    assert found.candidates[[one.label for one in found.candidates].index("start")].strategy == START


def test_nothing_is_measured_twice(tmp_path):
    calls = []

    def counting(strategy, trial):
        calls.append(strategy)
        return truth(strategy, trial)

    first = search(tmp_path / "s", top=2, confirm_score=counting)
    assert len(calls) == 3
    again = search(tmp_path / "s", top=2, confirm_score=counting)
    assert len(calls) == 3 and [one.label for one in again.candidates] == [one.label for one in first.candidates]
    more = search(tmp_path / "s", top=5, confirm_score=counting)
    assert len(calls) == 5 and len(more.candidates) == 5  # the start, trial 0, is now one of the five
    fewer = search(tmp_path / "s", top=2, confirm_score=counting)
    assert len(calls) == 5 and len(fewer.candidates) == 3


def test_killed_while_confirming(tmp_path):
    count = 0

    def deadly(strategy, trial):
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return truth(strategy, trial)

    process = multiprocessing.get_context("fork").Process(
        target=search, args=(tmp_path / "s",), kwargs={"confirm_score": deadly}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    calls = []
    found = search(tmp_path / "s", confirm_score=lambda strategy, trial: calls.append(1) or truth(strategy, trial))
    assert len(calls) == 2 and len(found.candidates) == 4
    assert [one.label for one in found.candidates] == [one.label for one in search(tmp_path / "other").candidates]


def test_without_confirmation(tmp_path):
    found = search(tmp_path / "s", confirm_score=None)
    assert not found.confirmed and found.candidates[0].label == "trial 3"


def test_a_candidate_that_fails_is_left_out(tmp_path):
    strategies = {"good": START, "bad": GenerationStrategy.cosine(2, guidance_scale=5.0)}

    def score(strategy, trial):
        return truth(strategy, trial) if strategy == START else float("nan")

    storage = open_storage(tmp_path / "s")
    with pytest.warns(UserWarning, match="bad has no value"):
        scored = score_candidates(storage, "c", FRESH, strategies, score, progress=False)
    assert [one.label for one in scored] == ["good"]
    with pytest.raises(ValueError, match="seed 9 there and 10 here"):
        score_candidates(storage, "c", {**FRESH, "seed": 10}, strategies, score, progress=False)


def test_what_fails_is_tried_once_more_and_again_by_the_next_call(tmp_path):
    failures = 3  # of the next scores

    def score(strategy, trial):
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("the disk is full")
        return truth(strategy, trial)

    other = GenerationStrategy.cosine(2, guidance_scale=5.0)
    storage, strategies = open_storage(tmp_path / "s"), {"found": START, "other": other}
    with pytest.warns(UserWarning, match="found has no value and is left out: OSError: the disk is full"):
        scored = score_candidates(storage, "c", FRESH, strategies, score, progress=False)
    assert [one.label for one in scored] == ["other"]
    again = score_candidates(storage, "c", FRESH, strategies, score, progress=False)
    assert {one.label for one in again} == {"found", "other"}


def test_equal_strategies_are_one_candidate():
    study = optuna.create_study()
    for value in (2.0, 1.0, 1.0):
        trial = study.ask()
        trial.set_user_attr("strategy", (START if value == 1.0 else GenerationStrategy.cosine(2, 1.1)).to_dict())
        study.tell(trial, value)
    assert [trial.number for trial in best_trials(study, 5)] == [1, 0]


@pytest.mark.parametrize(("top", "expected"), [(1, [1, 4, 5]), (2, [0, 1, 4, 5]), (9, [0, 1, 2, 3, 4, 5])])
def test_of_a_front_its_ends_come_first_and_the_best_of_each_number_of_steps(top, expected):
    study = optuna.create_study(directions=["minimize", "minimize"])
    for steps, values in (
        (2, (9.0, 1.0)),
        (2, (2.0, 2.0)),
        (4, (0.8, 4.0)),
        (4, (0.7, 6.0)),
        (4, (0.5, 8.0)),
        (8, (0.6, 9.0)),
    ):
        trial = study.ask()
        trial.set_user_attr("strategy", GenerationStrategy.cosine(steps).to_dict())
        study.tell(trial, values)
    assert [trial.number for trial in best_trials(study, top)] == expected  # trial 5 is not on the front


def test_what_a_search_has_stored_is_still_its_trial(tmp_path):
    """Run again after it was stored: nothing is measured again, and the label is the trial's."""
    calls = []

    def counting(strategy, trial):
        calls.append(strategy)
        return truth(strategy, trial)

    first = search(tmp_path / "s", confirm_score=counting)
    winner, measured = first.candidates[0], len(calls)
    again = search(tmp_path / "s", confirm_score=counting, stored={"stored": winner.strategy})
    assert len(calls) == measured and [one.label for one in again.candidates] == [
        one.label for one in first.candidates
    ]
    other = search(
        tmp_path / "s", confirm_score=counting, stored={"stored": GenerationStrategy.cosine(2, guidance_scale=9)}
    )
    assert len(calls) == measured + 1 and other.candidates[-1].label == "stored"


def test_one_trial_too_many_takes_nothing_from_a_candidate(tmp_path):
    """Workers that come at once may begin it: a candidate whose own trial is lost afterwards is measured after all."""
    storage, candidates = open_storage(tmp_path / "s"), {"start": START}
    score_candidates(storage, "c", FRESH, candidates, truth, progress=False)
    study = optuna.load_study(study_name="c", storage=storage)
    extra = study.ask()
    write_claim(
        study, extra.study._storage.get_trial(extra._trial_id), {"worker": this_worker(), "since": 0, "slot": [1, 0]}
    )
    study.tell(extra, state=optuna.trial.TrialState.PRUNED)
    sampler = ResumableSampler(lambda seed: optuna.samplers.RandomSampler(seed))
    assert sampler.has_ended(study, 1) and not sampler.has_ended(study, 2 + 1)
    lost = optuna.create_study(study_name="lost", storage=storage)
    extra = lost.ask()
    write_claim(lost, lost._storage.get_trial(extra._trial_id), {"worker": this_worker(), "since": 0, "slot": [1, 0]})
    lost.tell(extra, state=optuna.trial.TrialState.PRUNED)
    assert not sampler.has_ended(lost, 1) and not sampler.is_taken(lost, 1)


def test_workers_with_other_candidates_that_come_at_one_moment_get_their_own_values(tmp_path, monkeypatch):
    """Both have read the empty list, and the second writes its own over the first one's."""
    set_user_attr, came = optuna.study.Study.set_user_attr, []
    other = GenerationStrategy.cosine(2, guidance_scale=2.0)

    def confirm(candidates):
        scored = score_candidates(open_storage(tmp_path / "s"), "c", FRESH, candidates, truth, progress=False)
        return {one.label: one.value for one in scored}

    def overtaken(study, key, value):
        if key == CANDIDATES and not came:
            came.append("the other")
            came[:] = [confirm({"other": other})]
        set_user_attr(study, key, value)

    monkeypatch.setattr(optuna.study.Study, "set_user_attr", overtaken)
    assert confirm({"start": START}) == {"start": sum(START.guidance_scales)}
    assert came == [{"other": sum(other.guidance_scales)}]
