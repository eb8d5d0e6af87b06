"""When a training is stopped, and which of its policies is kept."""

import pytest
import torch

from diffusers_autonat.metrics import compute_reference, load_extractor
from diffusers_autonat.metrics.evaluator import Evaluator
from diffusers_autonat.training.checkpoints import put_together, take_apart
from diffusers_autonat.training.reward_guard import PolicyValidation, RewardGuard
from tests.conftest import save_tiny_classifier


def policy(value: float) -> torch.nn.Module:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def values(distance, second, consistency=0.9):
    return {
        "distance": distance, "error": 0.05, "second_distance": second, "second_error": 0.03,
        "second_class_consistency": consistency,
    }  # fmt: skip


def run(rows, **options):
    guard = RewardGuard(**options)
    for step, row in enumerate(rows):
        if guard.add(step, values(*row), policy(step)):
            break
    return guard


def test_it_stops_when_only_the_rewards_distance_improves():
    hacked = [(1.0, 1.0), (0.9, 0.9), (0.8, 0.95), (0.75, 0.96), (0.7, 0.97), (0.6, 1.0)]
    guard = run(hacked)
    assert len(guard.validations) == 5
    assert guard.stopped == (
        "the reward's distance fell from 0.900 (update 1) to 0.700 while the second extractor's rose from 0.900 to 0.970, "
        "more than its noise in 3 validations in a row (update 4)"
    )
    assert (
        guard.best_values["step"] == 1 and guard.best["weight"].item() == 1
    )  # though 0.7 x 0.97 is the least product
    assert len(run(hacked, patience=2).validations) == 4


@pytest.mark.parametrize(
    "rows",
    [
        [(1.0, 1.0), (0.9, 1.04), (0.8, 1.04), (0.7, 1.04), (0.6, 1.04)],  # within the noise, hypot(0.03, 0.03)
        [(1.0, 1.0), (0.9, 1.1), (0.8, 1.02), (0.7, 1.1), (0.6, 1.1)],  # not in a row
        [(1.0, 1.0), (1.1, 1.1), (1.2, 1.2), (1.1, 1.3), (1.2, 1.3)],  # both are worse: nothing is hacked
    ],
)
def test_it_goes_on_otherwise(rows):
    assert run(rows).stopped is None


def test_it_stops_when_classes_are_lost_and_keeps_no_such_policy():
    guard = run([(1.0, 1.0, 0.9), (0.8, 0.8, 0.885), (0.5, 0.5, 0.87), (0.4, 0.4, 0.9)])
    assert guard.stopped == "the class consistency fell to 87.0%, below 88.0% (update 2)"
    assert guard.best_values["step"] == 1 and guard.best["weight"].item() == 1
    assert run([(1.0, 1.0, 0.9), (0.8, 0.8, 0.6)], least_consistency=0.5).stopped is None
    unknown = RewardGuard()
    assert all(unknown.add(step, {"distance": 1 - step / 10, "error": 0.1}, policy(step)) is None for step in range(5))
    assert unknown.best_values["step"] == 4


def test_what_pleases_the_reward_alone_is_not_kept():
    guard = run([(0.5, 0.5), (0.05, 2.0), (0.4, 0.52), (0.04, 2.2), (0.3, 0.6)])
    assert guard.best_values["step"] == 2  # 0.52 is 0.5 within the noise


def test_it_goes_on_from_a_checkpoint():
    rows = [(1.0, 1.0), (0.9, 1.1), (0.8, 1.1), (0.7, 1.1)]
    guard, tensors = run(rows[:3]), {}
    resumed = RewardGuard()
    resumed.load_state_dict(put_together(take_apart(guard.state_dict(), tensors, "guard"), tensors, "guard"))
    assert resumed.validations == guard.validations and resumed.stopped is None
    assert torch.equal(resumed.best["weight"], guard.best["weight"])
    assert resumed.add(3, values(*rows[3]), policy(3)) == run(rows).stopped is not None


def test_both_extractors_see_the_same_images(pipe, tmp_path, fashion_mnist):
    extractors = []
    for number in range(2):
        save_tiny_classifier(tmp_path / str(number))
        extractors.append(load_extractor(str(tmp_path / str(number)), batch_size=8))
    samples = [(torch.from_numpy(image)[None], None) for image in fashion_mnist[0]]
    one, other = (compute_reference(samples, extractor) for extractor in extractors)
    validation = PolicyValidation(extractors[0], one, (extractors[1], other), 20, seed=3)
    found = validation(pipe)
    for name in ("distance", "error", "class_consistency"):
        assert found[name] == pytest.approx(found[f"second_{name}"], rel=1e-9)
    evaluator = Evaluator(pipe, extractors[0], one, ("fid", "class"), progress=False)
    expected = evaluator(20, seed=3)
    assert found["distance"] == expected["frechet_distance"]
    assert found["class_consistency"] == expected["class_consistency"]
    assert PolicyValidation(extractors[0], one, None, 20, seed=3)(pipe).keys() == {
        "distance",
        "error",
        "class_consistency",
    }
    with pytest.raises(ValueError, match="features, "):
        PolicyValidation(
            extractors[0], one.__class__(mu=torch.zeros(3), sigma=torch.eye(3), num_images=5), None, 20, 0
        )
