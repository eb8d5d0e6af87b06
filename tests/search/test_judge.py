"""A judge is plain values: what a score depends on stands in its identity, and scripts fill it from their arguments."""

import argparse
import dataclasses

import pytest
import torch

from diffusers_autonat import GenerationStrategy, TrainingStrategy
from diffusers_autonat.metrics import Reference, compute_reference, load_extractor, load_reference
from diffusers_autonat.search.judge import Judge
from search.arguments import add_evaluation_arguments, check, judge_of
from tests.conftest import save_tiny_classifier, tiny_pipeline


COSINE = GenerationStrategy.cosine(4)


@pytest.fixture(scope="module")
def judge(tiny):
    extractor = load_extractor(str(tiny / "judge"))
    return Judge(extractor, load_reference(tiny / "reference.npz", extractor), num_images=10, confirm_images=20)


def test_a_reference_of_another_extractor_is_refused(judge):
    with pytest.raises(ValueError, match="9 features"):
        dataclasses.replace(judge, reference=Reference(torch.zeros(9).double(), torch.eye(9).double()))


def test_a_second_extractor_is_another_and_sees_the_confirmation_alone(judge, tiny, tmp_path, pipe, fashion_mnist):
    save_tiny_classifier(tmp_path, seed=1)
    other = load_extractor(str(tmp_path))
    with pytest.raises(ValueError, match="has the weights of the first, whose opinion it would repeat"):
        dataclasses.replace(judge, second=(judge.extractor, judge.reference))
    with pytest.raises(ValueError, match="make the reference again with this extractor"):
        dataclasses.replace(judge, second=(other, judge.reference))
    reference = compute_reference([(torch.from_numpy(image)[None], None) for image in fashion_mnist[0]], other)
    both = dataclasses.replace(judge, second=(other, reference))
    assert both.identity() == judge.identity()
    second = {"second_extractor": other.weights_hash, "second_reference": reference.hash}
    assert both.confirm_identity() == judge.confirm_identity() | second
    assert both.second_name == "second_frechet_distance" and judge.second_name is None
    assert not any(name.startswith("second_") for name in both.score(pipe).evaluator(10, 0, COSINE))
    assert {"second_frechet_distance", "second_frechet_distance_error", "second_class_consistency"} < set(
        both.confirm_score(pipe).evaluator(10, 0, COSINE)
    )


def test_scores_are_of_the_search_and_of_the_confirmation(judge, pipe):
    search, confirmed = judge.score(pipe, [4, 8]), judge.confirm_score(pipe)
    assert (search.num_images, search.seed, list(search.rungs)) == (10, 0, [4, 8])
    assert (confirmed.num_images, confirmed.seed, list(confirmed.rungs)) == (20, 1_000_003, [])
    assert judge.value_name == "frechet_distance"  # a FID only with the standard network
    assert judge.confirm_identity(T=4) == judge.identity(T=4) | {"num_images": 20, "seed": 1_000_003}


def test_what_a_value_depends_on_is_in_the_identity(judge):
    changes = {
        "metric": "kid",
        "num_images": 11,
        "seed": 1,
        "redraw_noise": True,
        "label_policy": "uniform",
        "dtype": "bfloat16",
    }
    for name, value in changes.items():
        other = dataclasses.replace(judge, **{name: value}).identity()
        assert {key for key, old in judge.identity().items() if other[key] != old} == {name}
    for name, value in {"batch_size": 1, "progress": True}.items():
        assert dataclasses.replace(judge, **{name: value}).identity() == judge.identity()


def test_a_training_strategy_is_scored_by_the_pipeline_trained_with_it(judge, tiny, monkeypatch):
    trained, scored = [], []

    def train(strategy):
        trained.append(strategy)
        return tiny / "pipeline"

    def score(self, pipeline, *rungs):
        scored.append((self, next(pipeline.transformer.parameters()).dtype))
        return lambda strategy, trial: 1.5

    monkeypatch.setattr(Judge, "score", score)
    half = dataclasses.replace(judge, dtype="bfloat16")
    assert half.training_score(train, None)(TrainingStrategy(12, 3), None) == 1.5
    assert trained == [TrainingStrategy(12, 3)] and scored == [(half, torch.bfloat16)]


def test_a_judge_from_the_command_line(judge, tiny, tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    add_evaluation_arguments(parser)
    words = ["--reference", str(tiny / "reference.npz"), "--feature-extractor", str(tiny / "judge")]
    more = [
        "--num-images",
        "10",
        "--confirm-images",
        "20",
        "--label-policy",
        "uniform",
        "--seed",
        "5",
        "--dtype",
        "float16",
    ]
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"architecture": "x86_64"})  # no AVX512
    with pytest.warns(UserWarning, match="leave --dtype float16 out"):
        made = judge_of(parser.parse_args([*words, *more]), tiny_pipeline())
    expected = dataclasses.replace(judge, label_policy="uniform", seed=5, dtype="float16")
    assert made.identity() == expected.identity() and made.confirm_identity() == expected.confirm_identity()
    parser.set_defaults(output=str(tmp_path), study_name=None)
    check(parser.parse_args([*words, "--seed", "7", "--confirm-seed", "1007"]))
    with pytest.raises(ValueError, match="--confirm-seed 7: a search draws by it"):
        check(parser.parse_args([*words, "--seed", "7", "--confirm-seed", "7"]))
    parser.set_defaults(repetitions=2)  # the second by 1007; values that nothing was chosen by, by the next one
    with pytest.raises(ValueError, match="--confirm-seed 1006: a search draws by it or by the next"):
        check(parser.parse_args([*words, "--seed", "7", "--confirm-seed", "1006"]))
    parser.set_defaults(repetitions=1, num_trials=4)
    with pytest.raises(ValueError, match="--confirm-seed 9: a search draws by it"):
        check(parser.parse_args([*words, "--seed", "7", "--confirm-seed", "9", "--redraw-noise"]))
