"""PPO by hand, the start at a static strategy, and that what is rewarded is done more often."""

import math

import pytest
import torch

from diffusers_autonat import AdaptivePolicyModel, AutoNATPipeline, GenerationStrategy
from diffusers_autonat.metrics import Requests
from diffusers_autonat.training.policy_gradient import (
    ActorCritic,
    ExploringPolicy,
    exploration,
    joined,
    ppo_loss,
    rollout,
)
from tests.conftest import tiny_pipeline
from tests.pipelines.test_pipeline_policy import record, sample


STRATEGY = GenerationStrategy([0.9, 0.6, 0.3, 0], [2.6, 0.0, 0.3, 0.5], [3.2, 1.5, 0.0, 0.5], [0.0, 0.5, 1.0, 1.3])


def policy_of(pipeline, strategy=STRATEGY, **changes) -> AdaptivePolicyModel:
    sizes = {"in_channels": 32, "hidden_size": 16, "conv_channels": 8, "mlp_channels": (16, 16), "grid_size": 7}
    torch.manual_seed(0)
    steps = strategy.num_inference_steps
    return AdaptivePolicyModel(**sizes | changes, num_inference_steps=steps, strategy=strategy.to_dict()).eval()


@pytest.mark.parametrize("action_smooth", [0.0, 0.8])
def test_a_fresh_policy_is_the_stored_strategy(pipe, tmp_path, action_smooth):
    """AutoNAT's static strategy is the policy that ignores its input."""
    pipe.scheduler.register_to_config(strategies=[STRATEGY.to_dict()])
    adaptive = AutoNATPipeline(**pipe.components | {"policy": policy_of(pipe, action_smooth=action_smooth)})
    adaptive.save_pretrained(tmp_path)
    adaptive = AutoNATPipeline.from_pretrained(tmp_path)
    adaptive.set_progress_bar_config(disable=True)
    calls = record(adaptive.policy)
    stored = adaptive.scheduler.get_strategy(4)
    assert torch.equal(sample(adaptive), sample(adaptive, strategy=stored))
    for (_, _, output), step in zip(calls, stored.steps()):
        for name in ("mask_ratio", "sampling_temperature", "remasking_temperature", "guidance_scale"):
            assert getattr(output.parameters, name).tolist() == pytest.approx([getattr(step, name)] * 3, abs=1.1e-4)


def test_a_strategy_of_other_steps_is_refused():
    with pytest.raises(ValueError, match="`strategy` has 4 steps, and `num_inference_steps` is 5"):
        AdaptivePolicyModel(num_inference_steps=5, strategy=STRATEGY.to_dict())


def test_the_loss_by_hand():
    """Two images of two steps: one ratio within, one above, one below the range, one of a bad action below it."""
    old = torch.tensor([[-1.0, -2.0], [-3.0, -1.5]])
    new = torch.tensor([[-0.9, -1.5], [-3.5, -2.5]])
    returns, values = torch.tensor([[1.0], [-0.5]]), torch.tensor([[0.2, 0.1], [0.0, -0.4]])
    advantages = torch.tensor([[0.8, 0.9], [0.5, -0.1]])
    loss, logs = ppo_loss(new, old, values, returns, advantages, clip=0.2, value_weight=0.5)
    chosen = [
        math.exp(0.1) * 0.8,  # within
        1.2 * 0.9,  # more likely than it is rewarded for
        math.exp(-0.5) * 0.5,  # a good action that became unlikely: not clipped
        0.8 * -0.1,  # a bad one that is unlikely enough
    ]
    errors = [(0.2 - 1) ** 2, (0.1 - 1) ** 2, (0.0 + 0.5) ** 2, (-0.4 + 0.5) ** 2]
    assert loss.item() == pytest.approx(-sum(chosen) / 4 + 0.5 * sum(errors) / 4, rel=1e-6)
    kl = [math.exp(d) - 1 - d for d in (0.1, 0.5, -0.5, -1.0)]
    assert logs["approx_kl"].item() == pytest.approx(sum(kl) / 4, rel=1e-5)
    assert logs["clip_fraction"].item() == 0.75


def test_log_probabilities_are_those_of_the_noise_that_was_drawn(pipe):
    policy = policy_of(pipe)
    torch.nn.init.normal_(policy.proj_out.weight)
    model, std = ActorCritic(policy), 0.4
    parts = list(rollout(pipe, policy, std, Requests.of_classes(torch.tensor([0, 1, 2, 3, 0])), 3))
    kept = joined([part for part, _ in parts])
    assert kept.features.shape == (5, 4, 49, 32) and kept.raw.shape == (5, 4, 4)
    assert [images.shape[0] for _, images in parts] == [3, 2] and parts[0][1].dtype == torch.uint8
    log_probs, values = model(kept.features, kept.raw, std)
    assert not values.any()  # a fresh critic
    for t in range(4):
        mean = policy(kept.features[:, t], t).raw
        expected = -((kept.raw[:, t] - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))
        if t == 3:
            expected = expected[:, 2:]  # r and tau2 of the last step decide nothing
        torch.testing.assert_close(log_probs[:, t], expected.sum(dim=1), rtol=1e-4, atol=1e-4)


def test_exploring_takes_the_pipelines_own_place_of_the_policy(pipe):
    policy = policy_of(pipe)
    explorer = ExploringPolicy(policy, std=0.0)
    exploring = AutoNATPipeline(**pipe.components | {"policy": explorer})
    plain = AutoNATPipeline(**pipe.components | {"policy": policy})
    for one in (exploring, plain):
        one.set_progress_bar_config(disable=True)
    assert torch.equal(sample(exploring), sample(plain))
    features, raw = explorer.take()
    assert features.shape == (3, 4, 49, 32) and not raw.any() and explorer.features == []
    assert pipe.policy is None


def test_what_is_rewarded_is_done_more_often():
    """The reward of an image is minus its mean r: the policy's r falls, and the critic learns to expect the rewards."""
    pipe = tiny_pipeline()
    policy = policy_of(pipe, GenerationStrategy.cosine(3), action_smooth=0.0)
    model, std = ActorCritic(policy), 0.5
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    torch.manual_seed(0)
    requests = Requests.of_classes(torch.arange(32) % 4)
    ratios = []
    for _ in range(8):
        kept = joined([part for part, _ in rollout(pipe, policy, std, requests, 32)])
        r = torch.stack([policy.smoothed(kept.raw[:, t], torch.full((32,), t)) for t in range(2)], dim=1)[..., 0]
        rewards = -r.sigmoid().mean(dim=1)
        ratios.append(-rewards.mean().item())
        returns = ((rewards - rewards.mean()) / rewards.std())[:, None]
        with torch.no_grad():
            old, values = model(kept.features, kept.raw, std)
        for _ in range(5):
            log_probs, new_values = model(kept.features, kept.raw, std)
            loss, _ = ppo_loss(log_probs, old, new_values, returns, returns - values, 0.2, 0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert ratios[-1] < ratios[0] - 0.1


def test_noise_falls_linearly():
    assert [exploration(step, 5, 0.6, 0.2) for step in (1, 2, 5)] == pytest.approx([0.6, 0.5, 0.2])
    assert exploration(1, 1, 0.6, 0.2) == 0.6
