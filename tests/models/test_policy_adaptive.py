"""AdaptivePolicyModel: the released code's recorded run, the heuristic, and what a model of diffusers has to do."""

import json
import math

import pytest
import torch
from safetensors import safe_open

from diffusers_autonat import AdaptivePolicyModel
from diffusers_autonat.conversion import convert_policy_state_dict
from tests.conftest import FIXTURES


SIZES = {"in_channels": 12, "hidden_size": 8, "conv_channels": 6, "mlp_channels": (10, 7), "grid_size": 5}


def make_policy(seed: int = 0, **changes) -> AdaptivePolicyModel:
    """Every parameter is random: a fresh policy would ignore what it looks at."""
    torch.manual_seed(seed)
    policy = AdaptivePolicyModel(**(SIZES | {"num_inference_steps": 4} | changes)).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def features(batch_size: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch_size, 25, 12, generator=torch.Generator().manual_seed(seed))


def run(policy, inputs) -> list:
    """Outputs of all steps, each fed the action of the step before."""
    outputs, action = [], None
    for t in range(policy.config.num_inference_steps):
        outputs.append(policy(inputs, t, action))
        action = outputs[-1].action
    return outputs


def columns(parameters) -> torch.Tensor:
    """`[B, 4]` in the release's order."""
    return torch.stack(
        [
            parameters.mask_ratio,
            parameters.remasking_temperature,
            parameters.sampling_temperature,
            parameters.guidance_scale,
        ],
        dim=1,
    )


@torch.no_grad()
def test_the_recorded_run_of_the_released_code():
    with safe_open(FIXTURES / "policy.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights = {name.removeprefix("policy."): value for name, value in tensors.items() if name.startswith("policy.")}
    config, state_dict = convert_policy_state_dict(weights, num_inference_steps=sizes["num_steps"])
    assert config["mlp_channels"] == sizes["mlp"] and config["grid_size"] == sizes["grid"]
    policy = AdaptivePolicyModel(**config).eval()
    policy.load_state_dict(state_dict)
    action = None
    for t in range(sizes["num_steps"]):
        output = policy(tensors[f"step{t}.features"].float(), t, action)
        action = output.action
        assert (output.raw - tensors[f"step{t}.raw"]).abs().max() < 1e-5
        assert (columns(output.parameters) - tensors[f"step{t}.actions"]).abs().max() < 1e-5


@pytest.mark.parametrize("T", [1, 4, 16])
def test_a_fresh_policy_is_the_heuristic(T):
    policy = AdaptivePolicyModel(
        **SIZES, num_inference_steps=T, sampling_temperature=1.5, remasking_temperature=4.5, guidance_scale=3.0
    )
    for t, output in enumerate(run(policy, features())):
        u = (t + 1 - 0.001) / T
        expected = [math.cos(math.pi * u / 2), 4.5 * (1 - u), 1.5, 3 * (t + 0.001) / T]
        assert columns(output.parameters).tolist() == [pytest.approx(expected, abs=1e-5)] * 3
        assert not output.raw.any() and output.parameters.is_last == (t == T - 1)
        assert output.parameters.is_guided and not output.parameters.is_bounded


def test_it_looks_at_every_image_and_at_nothing_else():
    policy, inputs = make_policy(), features()
    together = run(policy, inputs)
    assert all(len(column.unique()) == 3 for column in columns(together[-1].parameters).T)
    for row in range(3):
        alone = run(policy, inputs[row : row + 1])
        for one, both in zip(alone, together):
            torch.testing.assert_close(one.action[0], both.action[row])


def test_steps_as_a_tensor():
    """As in training, where steps of several images are shuffled."""
    policy, inputs = make_policy(), features()
    outputs = run(policy, inputs)
    steps = torch.tensor([1, 3, 2])
    previous = torch.stack([outputs[t - 1].action[row] for row, t in enumerate(steps.tolist())])
    action = policy(inputs, steps, previous).action
    expected = torch.stack([outputs[t].action[row] for row, t in enumerate(steps.tolist())])
    torch.testing.assert_close(action, expected)


def test_without_smoothing_an_action_forgets():
    policy = make_policy(action_smooth=0.0)
    inputs = features()
    torch.testing.assert_close(policy(inputs, 2).action, policy(inputs, 2, torch.full((3, 4), 9.0)).action)


def test_save_load_half_and_gradients(tmp_path):
    policy, inputs = make_policy(), features()
    policy.save_pretrained(tmp_path)
    loaded = AdaptivePolicyModel.from_pretrained(tmp_path)
    assert dict(loaded.config)["mlp_channels"] == [10, 7] and not loaded.training
    assert torch.equal(policy(inputs, 1).action, loaded(inputs, 1).action)
    parameters, action, raw = loaded(inputs, 1, return_dict=False)
    assert torch.equal(action, policy(inputs, 1).action) and raw.shape == (3, 4)
    half = AdaptivePolicyModel.from_pretrained(tmp_path, dtype=torch.bfloat16)(inputs.bfloat16(), 1)
    assert half.raw.dtype == torch.bfloat16 and half.action.dtype == torch.float32
    assert (half.action - action).abs().max() < 0.1
    policy(inputs, 1).action.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.parameters())


def test_features_of_its_own_width_are_not_mapped():
    policy = AdaptivePolicyModel(**(SIZES | {"in_channels": 8}))
    assert not [name for name, _ in policy.named_parameters() if name.startswith("proj_in")]
    assert policy(torch.zeros(1, 25, 8), 0).action.shape == (1, 4)


def test_a_step_waits_for_no_device():
    policy = make_policy().to("meta")
    assert policy(features().to("meta"), 1, torch.empty(3, 4, device="meta")).parameters.mask_ratio.shape == (3,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "`hidden_size` has to be a whole number"),
        ({"num_inference_steps": 1.5}, "`num_inference_steps` has to be a whole number"),
        ({"action_smooth": 1.0}, r"`action_smooth` has to be in \[0, 1\), but is 1.0"),
        ({"guidance_scale": 0.0}, "`guidance_scale` of the heuristic has to be a positive number, but is 0.0"),
    ],
)
def test_wrong_sizes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        AdaptivePolicyModel(**(SIZES | changes))


@pytest.mark.parametrize("timestep", [-1, 4])
def test_a_step_that_is_none_of_its_own_is_refused(timestep):
    with pytest.raises(
        ValueError, match=f"`timestep` has to be from 0 to 3, the steps of the policy, but is {timestep}"
    ):
        make_policy()(features(), timestep)


def test_features_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"`features` has to be \[batch, 25, 12\], but is \[3, 49, 12\]"):
        make_policy()(torch.zeros(3, 49, 12), 0)
