"""Prompts in, images out: encoders, null prompt, guidance, what is cut, and what is refused."""

import json
import logging

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from tokenizers.processors import TemplateProcessing

from diffusers_autonat import (
    AutoNATTextToImagePipeline,
    GenerationStrategy,
    NATScheduler,
    UViTTransformer2DModel,
)
from diffusers_autonat.conversion import convert_uvit_state_dict
from tests.conftest import load_reference, tiny_pipeline, tiny_vqvae
from tests.pipelines.text_encoders import LENGTH, WIDTH, tiny_text_pipeline, tiny_tokenizer


UNGUIDED = GenerationStrategy.cosine(4, guidance_scale=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=["clip", "bert", "t5"])
def pipe(request):
    return tiny_text_pipeline(request.param)


@pytest.fixture
def clip():
    return tiny_text_pipeline()


def tokens(pipe, prompt=None, **kwargs):
    kwargs = {"generator": generator(), "num_inference_steps": 4, "output_type": "latent"} | kwargs
    return pipe(prompt, **kwargs).images


def count_calls(monkeypatch, module):
    calls = []
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: calls.append(args) or forward(*args, **kwargs))
    return calls


def test_saved_and_loaded_it_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "AutoNATTextToImagePipeline" and index["text_encoder"][0] == "transformers"
    again = AutoNATTextToImagePipeline.from_pretrained(tmp_path)
    assert torch.equal(tokens(again, "a red boat"), tokens(pipe, "a red boat"))
    assert "AutoNATTextToImagePipeline" in (tmp_path / "pipeline.py").read_text()


def test_states_alone_need_no_encoder(clip, tmp_path):
    states, null_states = clip.encode_prompt("a red boat")
    given = {"prompt_embeds": states, "negative_prompt_embeds": null_states}
    expected = tokens(clip, "a red boat")
    clip.save_pretrained(tmp_path / "whole")
    bare = AutoNATTextToImagePipeline.from_pretrained(tmp_path / "whole", text_encoder=None, tokenizer=None)
    bare.save_pretrained(tmp_path / "bare")
    for pipe in (bare, AutoNATTextToImagePipeline.from_pretrained(tmp_path / "bare")):
        assert torch.equal(tokens(pipe, **given), expected)
        with pytest.raises(
            ValueError, match="has no text_encoder and tokenizer for a prompt: load it with `text_encoder="
        ):
            pipe("a red boat")
        with pytest.raises(ValueError, match="guidance needs `negative_prompt_embeds`"):
            tokens(pipe, prompt_embeds=states)
        alone = tokens(pipe, prompt_embeds=states, guidance_scale=0.0)
        assert torch.equal(alone, tokens(clip, "a red boat", guidance_scale=0.0))
    again = AutoNATTextToImagePipeline.from_pretrained(
        tmp_path / "bare", text_encoder=clip.text_encoder, tokenizer=clip.tokenizer
    )
    assert torch.equal(tokens(again, "a red boat"), expected)


def test_the_generic_class_finds_it_through_the_folder(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    found = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(tmp_path), trust_remote_code=True)
    assert isinstance(found, AutoNATTextToImagePipeline)


@pytest.mark.parametrize("output_type, shape", [("np", (2, 28, 28, 1)), ("pt", (2, 1, 28, 28)), ("latent", (2, 49))])
def test_output_types(clip, output_type, shape):
    assert tuple(clip(["a boat", "a tree"], num_inference_steps=4, output_type=output_type).images.shape) == shape
    assert clip("a boat", num_inference_steps=4).images[0].size == (28, 28)
    assert len(clip("a boat", num_inference_steps=4, return_dict=False)) == 1


def test_prompt_guidance_and_negative_prompt_matter(pipe):
    boat = tokens(pipe, "a red boat", guidance_scale=3.0)
    for other in (
        tokens(pipe, "a green tree", guidance_scale=3.0),
        tokens(pipe, "a red boat", guidance_scale=0.0),
        tokens(pipe, "a red boat", guidance_scale=3.0, negative_prompt="the green lake"),
    ):
        assert not torch.equal(boat, other)


def test_the_empty_text_is_the_unconditional_branch(pipe):
    guided = tokens(pipe, "a red boat", negative_prompt="")
    assert torch.equal(guided, tokens(pipe, "a red boat"))
    _, null = pipe.encode_prompt("")
    assert torch.equal(guided, tokens(pipe, "a red boat", negative_prompt_embeds=null))
    # Where prompt and null prompt are one, guidance changes nothing but the last digits.
    cond, null = pipe.encode_prompt("")
    torch.testing.assert_close(cond, null)


def test_encoding_first_is_the_same_as_a_prompt(pipe):
    states, null_states = pipe.encode_prompt(["a red boat", "the lake"], negative_prompt="a tree")
    assert states.shape == null_states.shape == (2, LENGTH, WIDTH)
    direct = tokens(pipe, ["a red boat", "the lake"], negative_prompt="a tree")
    assert torch.equal(tokens(pipe, prompt_embeds=states, negative_prompt_embeds=null_states), direct)
    repeated, _ = pipe.encode_prompt(["a red boat", "the lake"], num_images_per_prompt=2)
    assert torch.equal(repeated, states.repeat_interleave(2, dim=0))


def test_prompts_are_encoded_without_a_transformer(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    encoder = AutoNATTextToImagePipeline.from_pretrained(tmp_path, vqvae=None, transformer=None, scheduler=None)
    states, null_states = encoder.encode_prompt("a red boat on the lake", negative_prompt="a tree")
    sampler = AutoNATTextToImagePipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    drawn = tokens(sampler, prompt_embeds=states, negative_prompt_embeds=null_states)
    assert torch.equal(drawn, tokens(pipe, "a red boat on the lake", negative_prompt="a tree"))


def test_one_null_state_serves_all_prompts(clip):
    states, null_states = clip.encode_prompt(["a red boat", "the lake"])
    given = {"prompt_embeds": states, "num_images_per_prompt": 2}
    expected = tokens(clip, negative_prompt_embeds=null_states, **given)
    assert torch.equal(tokens(clip, negative_prompt_embeds=null_states[:1], **given), expected)


def test_images_for_each_prompt_stand_beside_each_other(clip):
    four = [generator(seed) for seed in range(4)]
    together = tokens(clip, ["a red boat", "the lake"], num_images_per_prompt=2, generator=four)
    alone = tokens(clip, "the lake", generator=[generator(2), generator(3)], num_images_per_prompt=2)
    assert torch.equal(together[2:], alone)


def test_the_prompt_is_encoded_once_and_the_null_prompt_where_it_is_needed(clip, monkeypatch):
    encoded = count_calls(monkeypatch, clip.text_encoder)
    passes = count_calls(monkeypatch, clip.transformer)
    tokens(clip, ["a boat", "a tree"])
    assert [len(args[0]) for args in encoded] == [2, 1]  # both prompts, and one empty text for both
    assert [len(args[0]) for args in passes] == [3, 4, 4, 4]  # the first step once for the empty text
    encoded.clear(), passes.clear()
    tokens(clip, ["a boat", "a tree"], strategy=UNGUIDED)
    tokens(clip, ["a boat", "a tree"], guidance_scale=0.0)
    assert [len(args[0]) for args in encoded] == [2, 2]
    assert [len(args[0]) for args in passes] == [2] * 8


def test_a_callback_may_turn_guidance_on(clip):
    def guide(pipe, step, timestep, tensors):
        pipe._guidance_scale = 2.0

    drawn = tokens(clip, "a boat", guidance_scale=0.0, callback_on_step_end=guide)
    assert not torch.equal(drawn, tokens(clip, "a boat", guidance_scale=0.0))


def test_padding_is_nothing_to_encoders_with_a_mask():
    pipe = tiny_text_pipeline("bert")
    states, _ = pipe.encode_prompt("a boat")
    assert states[0, :4].abs().min() > 0 and states[0, 4:].abs().max() == 0
    # What is before it does not see it: as if there were none.
    alone = pipe.text_encoder(pipe.tokenizer("a boat", return_tensors="pt").input_ids).last_hidden_state
    torch.testing.assert_close(states[0, :4], alone[0])


def test_what_is_cut_is_shown(clip, caplog):
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        long = tokens(clip, "a red boat on the green lake")
    assert "takes 6 tokens" in caplog.text and "'the green lake'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        short = tokens(clip, "a red boat on")
    assert "left out" not in caplog.text and torch.equal(long, short)


def test_what_is_cut_is_shown_of_encoders_without_a_token_at_the_beginning(caplog):
    pipe = tiny_text_pipeline("t5")
    pipe.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 2)]
    )
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        tokens(pipe, ["a red boat on the green lake", "a red boat"], negative_prompt="the lake on the red tree a")
    assert "left out: 'green lake'" in caplog.text and "left out: 'tree a'" in caplog.text
    assert caplog.text.count("left out") == 2


def test_given_tokens_are_kept(clip):
    given = torch.arange(49)[None] % 16
    given[0, 10:30] = 16
    drawn = tokens(clip, "a boat", latents=given)
    assert torch.equal(drawn[given < 16], given[given < 16]) and drawn.max() < 16


def test_the_authors_text_model_through_the_pipeline():
    weights, reference = load_reference("uvit_text")
    config, state_dict = convert_uvit_state_dict(weights, num_attention_heads=4, context_length=12)
    transformer = UViTTransformer2DModel(**config).eval()
    transformer.load_state_dict(state_dict)
    pipe = AutoNATTextToImagePipeline(None, transformer, NATScheduler(48), None, None)
    pipe.set_progress_bar_config(disable=True)
    seen = []
    pipe(
        prompt_embeds=reference["encoder_hidden_states"], latents=reference["input_ids"], output_type="latent",
        strategy=GenerationStrategy([0.0], [0.0], [0.0], [0.0]),
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(tensors["logits"]),
        callback_on_step_end_tensor_inputs=["logits"],
    )  # fmt: skip
    error = (seen[0] - reference["logits"]).abs().max() / reference["logits"].abs().max()
    assert error < 2e-5


def test_lora_is_saved_and_loaded_through_the_pipeline(clip, tmp_path):
    clip.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    for name, parameter in clip.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted = tokens(clip, "a boat")
    layers = get_peft_model_state_dict(clip.transformer)
    AutoNATTextToImagePipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    fresh = tiny_text_pipeline()
    fresh.load_lora_weights(tmp_path)
    assert torch.equal(tokens(fresh, "a boat"), adapted)


states = torch.zeros(1, LENGTH, WIDTH)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "either `prompt` or `prompt_embeds`"),
        ({"prompt": "a", "prompt_embeds": states}, "and not both"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": "a", "negative_prompt": []}, "negative_prompt is empty"),
        ({"prompt_embeds": torch.zeros(0, LENGTH, WIDTH)}, "prompt_embeds is empty"),
        ({"prompt": "a", "negative_prompt_embeds": torch.zeros(0, LENGTH, WIDTH)}, "negative_prompt_embeds is empty"),
        ({"prompt": 3}, "prompt = 3 must be a text"),
        ({"prompt": [None]}, r"prompt = \[None\] must be"),
        ({"prompt": "a", "negative_prompt": [1]}, "negative_prompt"),
        ({"prompt": ["a", "b", "c"], "negative_prompt": ["d", "e"]}, "2 negative prompts for 3 prompts"),
        ({"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": states}, "and not both"),
        (
            {"prompt_embeds": torch.zeros(1, 5, WIDTH)},
            r"prompt_embeds must be states \[batch, 6, 16\], got \[1, 5, 16\]",
        ),
        ({"prompt_embeds": "states"}, "prompt_embeds must be states"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt = 0"),
        ({"prompt": "a", "guidance_scale": -1}, "guidance_scale = -1"),
        ({"prompt": ["a", "b"], "generator": [generator()]}, "1 generators were passed for 2 images"),
        ({"prompt": "a", "latents": torch.zeros(1, 49)}, "int64"),
        ({"prompt": "a", "num_inference_steps": 5}, r"only for \[4, 8\]"),
    ],
)
def test_wrong_arguments_are_named(clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        clip(**arguments)


def test_transformers_of_the_other_kind_are_refused(clip):
    classes = tiny_pipeline()
    pipe = AutoNATTextToImagePipeline(
        tiny_vqvae(), classes.transformer, classes.scheduler, clip.text_encoder, tiny_tokenizer()
    )
    with pytest.raises(ValueError, match="class-conditional: use AutoNATPipeline"):
        pipe("a boat")
