"""Training on captions through the scripts: from captioned images to a text pipeline, and on from there."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from diffusers_autonat import AutoNATTextToImagePipeline, ENATTransformer2DModel
from diffusers_autonat.training.tokens import load_token_set
from tests.training.test_scripts_in_process import run


TRANSFORMER = Path("pipeline", "transformer", "diffusion_pytorch_model.safetensors")


def tokenize_args(captioned, output, *more):
    return ["--train_data_dir", captioned / "images", "--vqvae", captioned / "vqvae", "--resolution", 28, "--output_dir", output,
            "--label_column", "none", "--images_per_part", 20, *more]  # fmt: skip


def train_args(captioned, output, *more):
    return ["--train_data_dir", captioned / "tokens", "--vqvae", captioned / "vqvae", "--text_encoder", captioned / "encoder",
            "--context_length", 8, "--hidden_size", 32, "--num_layers", 3, "--num_attention_heads", 4, "--max_train_steps", 6,
            "--train_batch_size", 16, "--logging_steps", 1, "--lr_warmup_steps", 0, "--use_ema", "--output_dir", output,
            *more]  # fmt: skip


@pytest.fixture
def unbroken(captioned, tmp_path, monkeypatch, capsys):
    args = train_args(captioned, tmp_path / "unbroken", "--checkpointing_steps", 3, "--license", "mit")
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    return tmp_path / "unbroken"


def test_the_token_set_keeps_captions(captioned):
    rows, info = load_token_set(captioned / "tokens")
    assert (len(rows), info.num_images, info.caption_column, rows[0]["label"]) == (128, 64, "captions", -1)
    captions = [json.loads(line)["captions"] for line in (captioned / "images" / "metadata.jsonl").open()]
    assert rows["captions"][:] == [texts for texts in captions for _ in range(2)]  # an image and its mirror image


@pytest.mark.parametrize(
    "more, message",
    [
        (["--caption_column", "caption"], "tokens made with another dataset_hash, caption_column .*caption_column is 'captions'"),
        ([], "caption_column is 'captions', asked is None"),
        (["--caption_column", "text"], "the dataset has no column 'text', .* name the right one with .*--caption_column"),
    ],
)  # fmt: skip
def test_other_captions_are_refused_by_name(captioned, more, message, monkeypatch, capsys):
    status, lines = run(
        "tokenize_images.py", tokenize_args(captioned, captioned / "tokens", *more), monkeypatch, capsys
    )
    assert status == 2 and len(lines) == 1 and re.search(message, lines[0]), lines


def test_what_is_no_caption_is_refused_by_name(captioned, tmp_path, monkeypatch, capsys):
    shutil.copytree(captioned / "images", tmp_path / "images")
    lines = [json.loads(line) for line in (captioned / "images" / "metadata.jsonl").open()]
    for i, line in enumerate(lines):
        line["number"], line["text"] = i, line["caption"] if i != 5 else None
        line["captions"] = line["captions"] if i != 7 else []
    (tmp_path / "images" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for column, wrong in (("number", "image 0 has the caption 0"), ("text", "image 5 has the caption None"),
                          ("captions", "image 7 has the caption []")):  # fmt: skip
        args = tokenize_args(
            captioned, tmp_path / "tokens", "--train_data_dir", tmp_path / "images", "--caption_column", column
        )
        status, said = run("tokenize_images.py", args, monkeypatch, capsys)
        assert (
            status == 2 and len(said) == 1 and f"{wrong}, which is no text: name another --caption_column" in said[0]
        )
    assert not list((tmp_path / "tokens").rglob("*.arrow"))


def test_it_saves_a_text_pipeline_with_its_encoder_and_card(unbroken):
    pipeline = AutoNATTextToImagePipeline.from_pretrained(unbroken / "pipeline")
    assert type(pipeline.text_encoder).__name__ == "BertModel" and pipeline.transformer.config.context_length == 8
    assert pipeline("a red boat", 4).images[0].size == (28, 28)
    card = ModelCard.load(unbroken / "pipeline" / "README.md")
    assert card.data.pipeline_tag == "text-to-image" and "text-conditional" in card.data.tags
    assert re.search("pipe\\('a (red|green) boat', num_inference_steps=8\\)", card.content)
    assert (
        "AutoNATTextToImagePipeline.from_pretrained" in card.content and card.content.count("boat on the lake”") == 2
    )
    grid = Image.open(unbroken / "pipeline" / "samples.png")
    assert grid.size == (4 * 28, 4 * 28)  # four captions
    files = [path for path in unbroken.rglob("*") if path.suffix in (".json", ".jsonl", ".md")]
    assert len(files) > 8 and not [path for path in files if str(unbroken.parent) in path.read_text()]


def test_a_resumed_training_has_the_weights_of_an_unbroken_one(captioned, unbroken, tmp_path, monkeypatch, capsys):
    shutil.copytree(unbroken / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    args = train_args(captioned, tmp_path / "resumed", "--resume_from_checkpoint", "latest")
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    for name in (TRANSFORMER, "checkpoint-6/optimizer.safetensors", "checkpoint-6/ema.safetensors"):
        whole, resumed = (load_file(tmp_path / folder / name) for folder in ("unbroken", "resumed"))
        assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    trained = load_file(unbroken / TRANSFORMER)["embed.context_proj.weight"]
    started = load_file(unbroken / "checkpoint-3" / "transformer.safetensors")["embed.context_proj.weight"]
    assert not torch.equal(trained, started)


def test_a_text_pipeline_is_trained_further_with_its_own_encoder(captioned, unbroken, tmp_path, monkeypatch, capsys):
    args = ["--train_data_dir", captioned / "tokens", "--pretrained_model_name_or_path", unbroken / "pipeline", "--max_train_steps", 1,
            "--train_batch_size", 16, "--lr_warmup_steps", 0, "--output_dir", tmp_path / "further"]  # fmt: skip
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    pipeline = AutoNATTextToImagePipeline.from_pretrained(tmp_path / "further" / "pipeline")
    before = AutoNATTextToImagePipeline.from_pretrained(unbroken / "pipeline")
    assert pipeline.transformer.config.context_length == 8
    weights, others = (one.text_encoder.state_dict() for one in (pipeline, before))
    assert all(torch.equal(weights[name], others[name]) for name in others)


def test_enat_learns_captions_too(captioned, tmp_path, monkeypatch, capsys):
    args = train_args(captioned, tmp_path, "--transformer", "enat", "--num_layers", 2, "--num_decoder_layers", 1, "--reuse_prob", 1,
                      "--learning_rate", "3e-2")  # fmt: skip
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    pipeline = AutoNATTextToImagePipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(pipeline.transformer, ENATTransformer2DModel) and pipeline.transformer.config.context_length == 8
    assert pipeline("a red boat", 4).images[0].size == (28, 28)
    states = torch.cat([pipeline.encode_prompt(prompt)[0] for prompt in ("a red boat", "the green boat on the lake")])
    with torch.no_grad():
        logits = pipeline.transformer(torch.full((2, 49), 16), encoder_hidden_states=states).sample
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_captioned_images_are_tokenised_where_there_are_no_tokens(captioned, tmp_path, monkeypatch, capsys):
    args = train_args(captioned, tmp_path, "--train_data_dir", captioned / "images", "--caption_column", "caption", "--label_column", "none",
                      "--resolution", 28, "--max_train_steps", 1)  # fmt: skip
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    assert len(list((tmp_path / "tokens").glob("text-states-*"))) == 1


@pytest.mark.parametrize(
    "more, message",
    [
        (["--text_encoder", "/nowhere"], "/nowhere"),
        (["--context_length", 17], "context_length = 17 is more than the 16 tokens of the text encoder"),
        (["--context_length", 0], "argument --context_length"),
        (["--train_data_dir", "plain"], "have no captions: tokenise the images anew with --caption_column"),
        (["--pretrained_model_name_or_path", "model_cards/autonat-fashion-mnist"], "the pretrained transformer has "),
    ],
)
def test_what_is_wrong_is_one_line(captioned, idx_folder, tmp_path, more, message, monkeypatch, capsys):
    if "plain" in more:
        args = tokenize_args(captioned, tmp_path / "plain", "--train_data_dir", idx_folder)
        assert run("tokenize_images.py", args, monkeypatch, capsys)[0] == 0
        more = ["--train_data_dir", tmp_path / "plain"]
    status, lines = run("train_autonat.py", train_args(captioned, tmp_path / "out", *more), monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and message in lines[0], lines
