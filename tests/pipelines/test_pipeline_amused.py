"""aMUSEd's components under our sampler: its own strategy gives its own images, and others can be searched."""

import logging

import pytest
import torch
from diffusers import UVit2DModel

from diffusers_autonat import AutoNATAmusedPipeline, GenerationStrategy
from tests.pipelines.amused import tiny_amused


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def amused():
    return tiny_amused()


@pytest.fixture
def pipe(amused):
    pipe = AutoNATAmusedPipeline.from_amused(amused)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tokens(pipe, prompt="a red boat", **kwargs):
    return pipe(prompt, **{"generator": generator(), "output_type": "latent"} | kwargs).images


def test_logits_are_those_that_amused_samples_from(amused, pipe, monkeypatch):
    theirs, ours = [], []
    step = amused.scheduler.step
    monkeypatch.setattr(
        amused.scheduler,
        "step",
        lambda model_output, **rest: theirs.append(model_output) or step(model_output, **rest),
    )
    texts, negative = ["a red boat", "the lake"], ["a tree", "a tree"]
    amused(texts, num_inference_steps=2, guidance_scale=4.0, negative_prompt=negative, output_type="latent",
           generator=generator())  # fmt: skip
    tokens(
        pipe, texts, negative_prompt="a tree", strategy=pipe.amused_strategy(2, guidance_scale=4.0),
        callback_on_step_end=lambda pipe, i, t, tensors: ours.append(tensors["logits"]),
        callback_on_step_end_tensor_inputs=["logits"],
    )  # fmt: skip
    first = theirs[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours[0], first, rtol=1e-4, atol=1e-5)
    assert (first[0] - first[1]).abs().max() > 1e-4  # the prompt counts


def test_counts_and_temperatures_are_those_of_amused(amused, pipe):
    strategy = pipe.amused_strategy(5, temperature=(3.0, 1.0))
    amused.scheduler.set_timesteps(5, (3.0, 1.0))
    assert strategy.remasking_temperatures == pytest.approx(amused.scheduler.temperatures.tolist())
    left = []
    logits, sample = torch.randn(1, 16, 8, 8, generator=generator()), torch.full((1, 8, 8), 23)
    for t in amused.scheduler.timesteps:
        sample = amused.scheduler.step(logits, t, sample, generator=generator()).prev_sample
        left.append(int((sample == 23).sum()))
    plan = pipe.scheduler.plan(strategy=strategy, num_to_fill=64)
    assert [*plan.num_masked[1:], 0] == left


def test_the_same_noise_free_images(amused, pipe):
    # With logits so far apart that no draw changes them both are greedy; in one step confidence, all ties, plays no part.
    transformer = amused.transformer
    scale = 1e6

    class Peaked(UVit2DModel):
        def forward(self, *args, **kwargs):
            return scale * UVit2DModel.forward(self, *args, **kwargs)

    try:
        transformer.__class__ = Peaked
        theirs = amused("a red boat", num_inference_steps=1, guidance_scale=1.0, output_type="latent").images
        drawn = tokens(pipe, strategy=pipe.amused_strategy(1, guidance_scale=1.0))
    finally:
        transformer.__class__ = UVit2DModel
    assert torch.equal(drawn, theirs.flatten(1))


def test_images_strategies_and_folders(pipe, tmp_path):
    strategies = [GenerationStrategy.cosine(4), pipe.amused_strategy(4)]
    images = pipe(["a boat", "a tree"], strategy=strategies, generator=generator()).images
    assert [image.size for image in images] == [(32, 32)] * 2
    assert pipe.scheduler.get_strategy().num_inference_steps == 12
    pipe.save_pretrained(tmp_path)
    again = AutoNATAmusedPipeline.from_pretrained(tmp_path)
    assert torch.equal(tokens(again), tokens(pipe)) and again.config.aesthetic_score == 6.0


def test_given_states_are_refused(pipe):
    with pytest.raises(ValueError, match="aMUSEd takes pooled states too"):
        pipe(prompt_embeds=torch.zeros(1, 8, 16))
    with pytest.raises(ValueError, match="aMUSEd takes pooled states too"):
        pipe.encode_prompt("a boat")


def test_every_part_is_needed(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "whole")
    bare = AutoNATAmusedPipeline.from_pretrained(tmp_path / "whole", vqvae=None)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="vqvae"):  # which says how large images are
        AutoNATAmusedPipeline.from_pretrained(tmp_path / "bare")


def test_what_is_cut_is_shown(pipe, caplog):
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        long = tokens(pipe, "a red boat on the lake the green tree", num_inference_steps=12)
    assert "takes 8 tokens" in caplog.text and "left out: 'the green tree'" in caplog.text
    assert torch.equal(long, tokens(pipe, "a red boat on the lake"))


def test_the_transformer_may_be_in_half_precision_alone(pipe):
    expected = tokens(pipe)
    try:
        pipe.transformer.to(torch.bfloat16)
        assert tokens(pipe).shape == expected.shape
    finally:
        pipe.transformer.to(torch.float32)


@pytest.mark.parametrize(
    ("prompt", "negative", "message"),
    [([], None, "prompt is empty"), ("a", [], "negative_prompt is empty"), (["a", "a", "a"], ["b", "b"], "2 negative prompts")],
)  # fmt: skip
def test_batches_that_do_not_fit_are_refused(pipe, prompt, negative, message):
    with pytest.raises(ValueError, match=message):
        pipe(prompt, negative_prompt=negative)


def test_loading_warns_of_nothing(pipe, tmp_path, caplog):
    pipe.save_pretrained(tmp_path)
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        AutoNATAmusedPipeline.from_pretrained(tmp_path)
    assert caplog.text == ""
