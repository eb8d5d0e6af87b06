"""aMUSEd's components under our sampler: its own strategy gives its own images, and others can be searched."""

import pytest
import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from diffusers_autonat import AutoNATAmusedPipeline, GenerationStrategy
from tests.conftest import tiny_vqvae
from tests.pipelines.text_encoders import WORDS, tiny_tokenizer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def amused():
    torch.manual_seed(0)
    transformer = UVit2DModel(
        hidden_size=16, cond_embed_dim=8, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=16,
        vocab_size=24, codebook_size=16, in_channels=8, block_out_channels=8, num_res_blocks=1, downsample=True,
        upsample=True, block_num_heads=1, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, sample_size=8,
    ).eval()  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, projection_dim=8, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 8
    pipe = AmusedPipeline(
        tiny_vqvae(), tokenizer, CLIPTextModelWithProjection(config).eval(), transformer, AmusedScheduler(23)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


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
