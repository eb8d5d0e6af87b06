"""A policy as a component: what it sees, what it sets, and that nothing changes where there is none."""

import json

import pytest
import torch

from diffusers_autonat import (
    AdaptivePolicyModel,
    AutoNATInpaintPipeline,
    AutoNATPipeline,
    AutoNATTextToImagePipeline,
    GenerationStrategy,
    HaltonScheduler,
    ReMDMScheduler,
)
from tests.pipelines.test_pipeline_enat import enat_pipeline
from tests.pipelines.text_encoders import tiny_text_pipeline


T = 4


def policy_of(pipe, seed: int = 0, **changes) -> AdaptivePolicyModel:
    """A policy that does look at the features of this pipeline's transformer."""
    torch.manual_seed(seed)
    config = pipe.transformer.config
    policy = AdaptivePolicyModel(
        in_channels=config.hidden_size, hidden_size=16, conv_channels=8, mlp_channels=(16, 8),
        grid_size=config.sample_size, num_inference_steps=T, **changes,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(policy.proj_out.weight, std=1.0)
    return policy


@pytest.fixture(params=["uvit", "enat"])
def adaptive(request, pipe):
    pipe = pipe if request.param == "uvit" else enat_pipeline()
    made = AutoNATPipeline(**pipe.components | {"policy": policy_of(pipe)})
    made.set_progress_bar_config(disable=True)
    return made


def sample(pipe, labels=(0, 3, 2), seeds=(0, 1, 2), **options):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(list(labels), generator=generators, output_type="latent", **options).images


def record(module) -> list:
    calls = []
    module.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    return calls


def test_it_sees_the_conditional_features_of_each_step_and_sets_what_the_step_does(adaptive):
    seen, passes = record(adaptive.policy), record(adaptive.transformer)
    tokens = sample(adaptive)
    assert adaptive.num_timesteps == T and [args[1] for args, _, _ in seen] == list(range(T))
    assert tokens.max() < 16 and len(seen) == T
    assert [len(args[0]) for args, _, _ in passes] == [4, 6, 6, 6]  # one for no class in the first step
    for t, ((features, _, previous), _, _) in enumerate(seen):
        assert torch.equal(features, passes[t][2].features[:3])  # both passes are one batch, the conditional one first
        assert (previous is None) if t == 0 else torch.equal(previous, seen[t - 1][2].action)
    # The same by hand, with the parameters that it has set.
    noise = [torch.Generator().manual_seed(seed) for seed in range(3)]
    by_hand = torch.full((3, 49), 16)
    for t, (_, _, decided) in enumerate(seen):
        assert torch.equal(by_hand, passes[t][0][0][:3])
        cond, uncond = passes[t][2].sample[:3], passes[t][2].sample[3:]
        logits = cond + decided.parameters.guidance_scale[:, None, None] * (cond - uncond)
        by_hand = adaptive.scheduler.step(logits, t, by_hand, noise, parameters=decided.parameters).prev_sample
    assert torch.equal(by_hand, tokens)


def test_an_image_does_not_depend_on_its_batch(adaptive):
    together = sample(adaptive)
    alone = torch.cat([sample(adaptive, [label], [seed]) for label, seed in zip((0, 3, 2), range(3))])
    assert torch.equal(together, alone)


def test_a_fresh_policy_is_its_heuristic_as_a_strategy(pipe):
    """AutoNAT's static strategy is the policy that ignores its input."""
    fresh = AutoNATPipeline(**pipe.components | {"policy": policy_of(pipe)})
    fresh.set_progress_bar_config(disable=True)
    torch.nn.init.zeros_(fresh.policy.proj_out.weight)
    calls = record(fresh.policy)
    drawn = sample(fresh)
    parameters = [output.parameters for _, _, output in calls]
    schedules = ("mask_ratio", "sampling_temperature", "remasking_temperature", "guidance_scale")
    rows = [[getattr(step, name)[0].item() for step in parameters] for name in schedules]
    rows[0][-1] = 0.0
    assert torch.equal(sample(pipe, strategy=GenerationStrategy(*rows)), drawn)


def test_a_strategy_takes_its_place(adaptive):
    without = AutoNATPipeline(**adaptive.components | {"policy": None})
    without.set_progress_bar_config(disable=True)
    seen = record(adaptive.policy)
    strategies = [GenerationStrategy.cosine(5), GenerationStrategy.enat(5), GenerationStrategy.cosine(5, 0.5)]
    for strategy in (GenerationStrategy.cosine(3), strategies):
        assert torch.equal(sample(adaptive, strategy=strategy), sample(without, strategy=strategy))
    assert seen == []
    with pytest.raises(ValueError, match="the policy is for 4 steps, not num_inference_steps = 8: leave it out, or"):
        adaptive([0], num_inference_steps=8)
    assert torch.equal(sample(adaptive, num_inference_steps=4), sample(adaptive))


def test_guidance_callbacks_given_tokens_and_interrupt(adaptive):
    passes = record(adaptive.transformer)
    sample(adaptive, guidance_scale=0.0)
    assert len(passes) == T and all(len(args[0]) == 3 for args, _, _ in passes)
    sample(adaptive, guidance_scale=2.0)
    assert [len(args[0]) for args, _, _ in passes[T:]] == [4, 6, 6, 6]
    given = torch.full((3, 49), 16)
    given[0, :20], given[1, 5:7] = 3, 4
    kept = sample(adaptive, latents=given)
    assert torch.equal(kept[given < 16], given[given < 16]) and kept.max() < 16

    def callback(pipe, step, timestep, tensors):
        if step == 1:
            tensors["latents"] = tensors["latents"].clone()
            tensors["latents"][:, :7] = 16
        pipe._interrupt = step == 2
        return tensors

    stopped = sample(adaptive, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents", "logits"])
    assert stopped.max() < 16


def test_save_and_load(adaptive, tmp_path):
    adaptive.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["policy"] == ["diffusers_autonat.models.policy_adaptive", "AdaptivePolicyModel"]
    loaded = AutoNATPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(sample(loaded), sample(adaptive))
    static = AutoNATPipeline.from_pretrained(tmp_path, policy=None)
    static.set_progress_bar_config(disable=True)
    assert static.policy is None
    assert torch.equal(
        sample(static, num_inference_steps=4), sample(adaptive, strategy=static.scheduler.get_strategy(4))
    )


def test_a_folder_without_one_says_nothing_of_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert "policy" not in json.loads((tmp_path / "model_index.json").read_text())
    loaded = AutoNATPipeline.from_pretrained(tmp_path)
    assert loaded.policy is None and "policy" in loaded.components
    loaded.policy = policy_of(pipe)
    loaded.register_modules(policy=loaded.policy)
    loaded.save_pretrained(tmp_path)
    assert AutoNATPipeline.from_pretrained(tmp_path).policy is not None


def test_other_pipelines_have_one_too(pipe, tmp_path):
    policy = policy_of(pipe)
    edit = AutoNATInpaintPipeline.from_pipe(AutoNATPipeline(**pipe.components | {"policy": policy}))
    edit.set_progress_bar_config(disable=True)
    image, mask = torch.rand(2, 1, 28, 28), torch.zeros(2, 1, 28, 28)
    mask[0, :, :12], mask[1, :, 8:] = 1, 1
    seen = record(edit.policy)
    painted, known = (edit(image, one, [0, 3], output_type="latent").images for one in (mask, torch.zeros_like(mask)))
    outside = torch.nn.functional.max_pool2d(mask, 4).flatten(1) == 0
    assert len(seen) == T and torch.equal(painted[outside], known[outside])

    text = tiny_text_pipeline()
    text = AutoNATTextToImagePipeline(**text.components | {"policy": policy_of(text)})
    text.set_progress_bar_config(disable=True)
    seen = record(text.policy)
    drawn = text(["a boat", "a hat"], generator=torch.Generator().manual_seed(0), output_type="latent").images
    assert len(seen) == T and drawn.shape[0] == 2
    text.save_pretrained(tmp_path)
    again = AutoNATTextToImagePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    same = again(["a boat", "a hat"], generator=torch.Generator().manual_seed(0), output_type="latent").images
    assert torch.equal(drawn, same)


def test_with_another_order(adaptive):
    adaptive.scheduler = HaltonScheduler.from_config(adaptive.scheduler.config)
    assert sample(adaptive).max() < 16
    adaptive.scheduler = ReMDMScheduler(16)
    with pytest.raises(ValueError, match="ReMDMScheduler needs others: take NATScheduler"):
        adaptive([0])


def test_one_that_looks_at_other_features_is_refused(pipe):
    pipe.register_modules(policy=AdaptivePolicyModel(in_channels=8, hidden_size=8, grid_size=7))
    with pytest.raises(
        ValueError, match="a grid of 7 x 7 features of width 8, and the transformer's is 7 x 7 of width 32"
    ):
        pipe([0])
