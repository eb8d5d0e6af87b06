"""Confirmations in parts: the same numbers as in one piece, no image made twice, whoever makes them and is killed."""

import threading

import optuna
import pytest
import torch

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.metrics import MetricSuite, compute_reference, load_extractor
from diffusers_autonat.search import EvaluatorScore, open_storage, open_study, parts, score_candidates
from diffusers_autonat.search.confirm import CANDIDATES, _in_order
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.parts import PartedScore
from diffusers_autonat.search.workers import all_trials, is_lost
from tests.conftest import save_tiny_classifier, tiny_pipeline


optuna.logging.set_verbosity(optuna.logging.ERROR)

IMAGES = 22  # in parts of 8, 8 and 6, made 4 at a time
CANDIDATE = {f"k {k}": GenerationStrategy.cosine(2, guidance_scale=k) for k in (0.5, 2.0)}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_IMAGES", 7)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def suites(tmp_path_factory, fashion_mnist):
    made = []
    for seed, batch_size in ((0, 4), (1, 3)):
        folder = tmp_path_factory.mktemp("extractor")
        save_tiny_classifier(folder, seed=seed)
        extractor = load_extractor(str(folder), batch_size=batch_size)
        samples = [(torch.from_numpy(image)[None], None) for image in fashion_mnist[0]]
        made.append(MetricSuite.of_distance(extractor, compute_reference(samples, extractor, feature_rows=64), 4))
    return made


class Counting(PartedScore):
    """Notes which parts it makes."""

    made: list

    def see(self, strategy, part, part_images):
        self.made.append((strategy.guidance_scales[-1], part))
        return super().see(strategy, part, part_images)


def score_of(suites, metric="fid", kind=Counting):
    (first, second), pipeline = suites, tiny_pipeline()
    pairs = [(suite.extractor, suite.reference) for suite in (first, second)]
    judge = Judge(*pairs[0], metric=metric, second=pairs[1], confirm_images=IMAGES)
    plain = judge.confirm_score(pipeline)
    assert type(plain) is PartedScore
    score = kind(plain.evaluator, plain.num_images, plain.seed, plain.metric)
    score.made = []
    return score


def confirm(path, score, candidates=CANDIDATE):
    scored = score_candidates(open_storage(path), "c", {"about": "this"}, candidates, score, progress=False)
    return [(one.label, one.value, one.record["values"]) for one in scored]


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_parts_give_what_one_piece_does(suites, tmp_path, metric):
    score = score_of(suites, metric)
    found = confirm(tmp_path / "parts", score)
    assert sorted(score.made) == [(k, part) for k in (0.5, 2.0) for part in range(3)]
    assert found == confirm(tmp_path / "piece", score_of(suites, metric, EvaluatorScore))
    assert "second_class_consistency" in found[0][2]
    assert confirm(tmp_path / "parts", score) == found and len(score.made) == 6  # nothing is made again
    assert (
        confirm(tmp_path / "parts", score, {**CANDIDATE, "k 1": GenerationStrategy.cosine(2)}) and len(score.made) == 9
    )


def test_workers_share_a_candidate(suites, tmp_path):
    expected, results, made = confirm(tmp_path / "alone", score_of(suites)), [], []
    together = threading.Barrier(2)

    class Meeting(Counting):
        def see(self, strategy, part, part_images):
            if part == 0 or (part == 1 and not self.made):  # both are at the first candidate
                together.wait(timeout=20)
            return super().see(strategy, part, part_images)

    def work(score):
        results.append(confirm(tmp_path / "shared", score, {"k 0.5": CANDIDATE["k 0.5"]}))
        made.append(score.made)

    threads = [threading.Thread(target=work, args=[score_of(suites, kind=Meeting)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    [(_, expected_value, expected_values)] = [row for row in expected if row[0] == "k 0.5"]
    [(label, value, values)] = results[0]  # a thread of its own may add up in another order: the last digits
    assert label == "k 0.5" and value == pytest.approx(expected_value, rel=1e-12)
    assert values == pytest.approx(expected_values, rel=1e-12)
    assert all(made) and sorted(made[0] + made[1]) == [(0.5, 0), (0.5, 1), (0.5, 2)]


@pytest.mark.parametrize("moment", ["in a part", "after a part", "while the whole is measured"])
def test_killed_at_any_moment(suites, tmp_path, moment, monkeypatch):
    expected = confirm(tmp_path / "unbroken", score_of(suites))

    class Deadly(Counting):
        def see(self, strategy, part, part_images):
            if moment == "in a part" and part == 1:
                raise KeyboardInterrupt
            return super().see(strategy, part, part_images)

        def whole(self, trial, seen):
            raise KeyboardInterrupt

    if moment == "after a part":
        known, seen_of = [], parts._seen_of

        def deadly(*which):
            known.append(seen_of(*which))
            if len(known) == 2:  # the first part is written, and its trial has not ended
                raise KeyboardInterrupt
            return known[-1]

        monkeypatch.setattr(parts, "_seen_of", deadly)
    with pytest.raises(KeyboardInterrupt):
        confirm(tmp_path / "killed", score := score_of(suites, kind=Deadly))
    if moment == "after a part":
        monkeypatch.setattr(parts, "_seen_of", seen_of)
    before = score.made
    assert len(before) == (3 if moment == "while the whole is measured" else 1)
    assert confirm(tmp_path / "killed", score := score_of(suites)) == expected
    assert sorted(before + score.made) == [(k, part) for k in (0.5, 2.0) for part in range(3)]  # nothing twice
    study = optuna.load_study(study_name="c", storage=open_storage(tmp_path / "killed"))
    assert sum(is_lost(trial) for trial in all_trials(study)) == 1


def test_two_that_see_all_parts_are_one_candidate(suites, tmp_path, monkeypatch):
    score = score_of(suites)
    complete = dict(enumerate(score.see(CANDIDATE["k 0.5"], part, 8) for part in range(3)))
    monkeypatch.setattr(parts, "_seen_of", lambda study, trial: complete)
    [(label, value, _)] = confirm(tmp_path / "c", score, {"k 0.5": CANDIDATE["k 0.5"]})
    study = optuna.load_study(study_name="c", storage=open_storage(tmp_path / "c"))
    assert label == "k 0.5" and [trial.value for trial in study.trials] == [value] * 3


def test_too_many_features_for_a_study_are_scored_in_one_piece(suites, tmp_path, monkeypatch):
    expected = confirm(tmp_path / "parts", score_of(suites))
    width = 2 * (6 + 4)  # features and logits of both
    monkeypatch.setattr(parts, "MOST_BYTES", 4 * width * IMAGES - 1)
    score = score_of(suites)
    assert score.part_images == IMAGES and confirm(tmp_path / "piece", score) == expected and score.made == []
    monkeypatch.setattr(parts, "MOST_BYTES", 4 * width * IMAGES)
    assert score.part_images == 8


def test_a_study_goes_on_as_it_began(suites, tmp_path):
    storage = open_storage(tmp_path / "earlier")
    study = open_study(storage, "c", {"about": "this"}, _in_order(0, 1))
    study.set_user_attr(CANDIDATES, [{"label": "k 0.5", "strategy": CANDIDATE["k 0.5"].to_dict()}])
    score = score_of(suites)
    assert len(confirm(tmp_path / "earlier", score)) == 2 and score.made == []
    confirm(tmp_path / "parts", score)
    with pytest.raises(ValueError, match="study 'c' was begun with a score in parts: choose another name"):
        confirm(tmp_path / "parts", lambda strategy, trial: 1.0)
