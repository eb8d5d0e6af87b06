import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, ViTConfig, ViTModel

from diffusers_autonat.loading import load_text_encoder
from diffusers_autonat.pipelines.prompts import encode_texts
from diffusers_autonat.training import text_states
from diffusers_autonat.training.text_condition import TextCondition
from diffusers_autonat.training.text_states import TextStates, number_captions
from diffusers_autonat.training.tokens import TokenSetInfo
from tests.pipelines.text_encoders import LENGTH, WIDTH, tiny_encoder, tiny_text_pipeline, tiny_tokenizer


CAPTIONS = [["a red boat"], ["a green tree", "a tree"], ["a red boat", "on the lake", ""]]
INFO = TokenSetInfo("", 16, 7, 28, False, None, 1, caption_column="caption")


def tiny_tokens(captions=CAPTIONS):
    return Dataset.from_dict(
        {"input_ids": [[0] * 49] * len(captions), "label": [-1] * len(captions), "captions": captions}
    )


def tiny_condition(folder, kind="bert", **options):
    condition, rows = TextCondition.of(
        tiny_tokens(), INFO, tiny_encoder(kind), tiny_tokenizer(), LENGTH, folder, show_progress=False, **options
    )
    return condition, condition.collate([rows[i] for i in range(3)])


def test_captions_are_numbered_and_the_empty_text_is_the_first():
    rows, texts = number_captions(tiny_tokens())
    assert texts == ["", "a red boat", "a green tree", "a tree", "on the lake"]
    assert [row.tolist() for row in rows["caption_ids"]] == [[1], [2, 3], [1, 4, 0]]
    assert rows.column_names == ["input_ids", "label", "caption_ids"] and isinstance(rows[0]["input_ids"], np.ndarray)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(text_states, "TEXTS_PER_PART", 3)
    monkeypatch.setattr(text_states, "TEXTS_PER_BATCH", 2)


@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_states_are_those_of_each_text(kind, tmp_path, small_parts):
    texts = ["", "a red boat", "a green tree", "a tree", "on the lake"]
    encoder, tokenizer = tiny_encoder(kind), tiny_tokenizer()
    states = TextStates.of(texts, encoder, tokenizer, LENGTH, tmp_path, show_progress=False)
    assert states.size == (LENGTH, WIDTH) and len(states.parts) == 2
    for number, text in enumerate(texts):
        alone = encode_texts(encoder, tokenizer, [text], LENGTH, torch.device("cpu"))
        assert torch.allclose(states[[number]], alone, atol=1e-6)
    assert torch.equal(states[[4, 0]][0], states.parts[1][1])


def test_states_are_made_once_and_mended(tmp_path, small_parts, monkeypatch):
    texts = ["", "a red boat", "a green tree", "a tree", "on the lake"]
    first = TextStates.of(texts, tiny_encoder("bert"), tiny_tokenizer(), LENGTH, tmp_path, show_progress=False)
    calls = []

    def encode(encoder, tokenizer, batch, *more):
        calls.extend(batch)
        return encode_texts(encoder, tokenizer, batch, *more)

    monkeypatch.setattr(text_states, "encode_texts", encode)
    TextStates.of(texts, tiny_encoder("bert"), tiny_tokenizer(), LENGTH, tmp_path, show_progress=False)
    assert calls == []
    files = sorted(tmp_path.rglob("*.safetensors"))
    files[1].write_bytes(files[1].read_bytes()[:-8])  # cut
    again = TextStates.of(texts, tiny_encoder("bert"), tiny_tokenizer(), LENGTH, tmp_path, show_progress=False)
    assert calls == texts[3:] and torch.equal(again[range(5)], first[range(5)])
    others = (
        (tiny_encoder("t5"), LENGTH, texts),
        (tiny_encoder("bert"), 5, texts),
        (tiny_encoder("bert"), LENGTH, texts[:4]),
    )
    for encoder, length, other in others:
        TextStates.of(other, encoder, tiny_tokenizer(), length, tmp_path, show_progress=False)
    assert len(list(tmp_path.glob("text-states-*"))) == 4 and not list(tmp_path.rglob("*.partial"))


def test_captions_that_are_cut_are_counted(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 captions have more than 4 tokens"):
        TextStates.of(["a boat", "a red boat"], tiny_encoder(), tiny_tokenizer(), 4, tmp_path, show_progress=False)


@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_no_caption_is_what_the_pipeline_takes_for_none(kind, tmp_path):
    condition, batch = tiny_condition(tmp_path, kind, dropout=1.0)
    states = condition.batch(batch)["encoder_hidden_states"]
    tiny = tiny_text_pipeline(kind)
    pipeline = condition.pipeline(tiny.vqvae, tiny.transformer, tiny.scheduler)
    prompt, null = pipeline.encode_prompt("a green tree")
    assert torch.allclose(states, null.expand(3, -1, -1), atol=1e-6)
    trained = tiny_condition(tmp_path, kind, dropout=0.0)[0].states[[2]]
    assert torch.allclose(trained, prompt, atol=1e-6) and not torch.allclose(prompt, null, atol=1e-2)


def test_each_caption_of_an_image_is_as_likely_and_some_are_dropped(tmp_path):
    condition, batch = tiny_condition(tmp_path, dropout=0.4)
    batch = {name: values * 3000 if isinstance(values, list) else values for name, values in batch.items()}
    torch.manual_seed(0)
    states = condition.batch(batch)["encoder_hidden_states"].unflatten(0, (3000, 3))
    shares = [(states == condition.states[[number]]).all(-1).all(-1).float().mean(0).tolist() for number in range(5)]
    expected = [[0.4, 0.4, 0.6], [0.6, 0, 0.2], [0, 0.3, 0], [0, 0.3, 0], [0, 0, 0.2]]
    assert np.array(shares) == pytest.approx(np.array(expected), abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(condition.batch(batch)["encoder_hidden_states"].unflatten(0, (3000, 3)), states)


def test_its_pipeline_and_samples(tmp_path):
    condition, _ = tiny_condition(tmp_path)
    assert (
        condition.transformer_config == {"context_dim": WIDTH, "context_length": LENGTH}
        and str(condition) == "4 captions"
    )
    assert condition.prompts == ("a red boat", "a green tree", "a tree", "on the lake")
    tiny = tiny_text_pipeline("bert")
    pipeline = condition.pipeline(tiny.vqvae, tiny.transformer, tiny.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    grid = condition.samples(pipeline, seed=0)
    assert grid.size == (4 * 28, 4 * 28) and grid.tobytes() == condition.samples(pipeline, seed=0).tobytes()
    assert "“a red boat”; “a green tree”" in condition.card_section(pipeline)


def test_what_cannot_be_learned_is_refused(tmp_path):
    args = (tiny_encoder("clip"), tiny_tokenizer())
    with pytest.raises(ValueError, match="have no captions: tokenise the images anew with --caption_column"):
        TextCondition.of(tiny_tokens(), TokenSetInfo("", 16, 7, 28, False, None, 1), *args, LENGTH, tmp_path)
    with pytest.raises(ValueError, match="context_length = 77 is more than the 16 tokens of the text encoder"):
        TextCondition.of(tiny_tokens(), INFO, *args, 77, tmp_path)


@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_encoders_are_loaded_from_folders_and_pipelines(kind, tmp_path):
    pipeline = tiny_text_pipeline(kind)
    pipeline.save_pretrained(tmp_path / "pipeline")
    pipeline.text_encoder.save_pretrained(tmp_path / "encoder")
    pipeline.tokenizer.save_pretrained(tmp_path / "encoder")
    for encoder, tokenizer in (
        load_text_encoder(str(tmp_path / "encoder")),
        load_text_encoder(str(tmp_path / "pipeline"), of_pipeline=True),
    ):
        assert type(encoder) is type(pipeline.text_encoder) and not encoder.training
        states = encode_texts(encoder, tokenizer, ["a red boat"], LENGTH, torch.device("cpu"))
        assert torch.equal(states, pipeline.encode_prompt("a red boat")[0])


def test_of_a_whole_clip_the_text_model_is_taken(tmp_path):
    text = tiny_encoder("clip").config
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 8, "patch_size": 4})).save_pretrained(tmp_path)  # fmt: skip
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder, _ = load_text_encoder(str(tmp_path))
    assert isinstance(encoder, CLIPTextModel)
    (loaded,) = (one for name, one in encoder.state_dict().items() if name.endswith("token_embedding.weight"))
    weights = load_file(tmp_path / "model.safetensors")
    assert torch.equal(loaded, weights["text_model.embeddings.token_embedding.weight"])


def test_what_is_no_text_encoder_is_refused(tmp_path):
    ViTModel(
        ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError):
        load_text_encoder(str(tmp_path))
