"""`training/train_text_judge.py`: from captioned images to a judge that reads captions."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, VisionTextDualEncoderModel

from diffusers_autonat.cli import main
from diffusers_autonat.metrics import TextTower, load_extractor
from tests.metrics.test_r_precision import CAPTIONS
from tests.pipelines.text_encoders import tiny_encoder, tiny_text_pipeline, tiny_tokenizer
from tests.training.test_scripts_in_process import run


def judge_args(captioned, output, *more):
    return ["--train_data_dir", captioned / "images", "--text_encoder", captioned / "encoder", "--caption_column", "captions",
            "--resolution", 28, "--hidden_sizes", 8, 16, "--depths", 1, 1, "--projection_dim", 8, "--train_batch_size", 16,
            "--num_train_epochs", 2, "--test_share", 0.2, "--checkpointing_steps", 2, "--logging_steps", 1,
            "--output_dir", output, *more]  # fmt: skip


@pytest.fixture
def judge(captioned, tmp_path, monkeypatch, capsys):
    assert run("train_text_judge.py", judge_args(captioned, tmp_path / "run"), monkeypatch, capsys, said := []) == (
        0,
        [],
    )
    assert "51 images to train on, 13 (20% of train, held out) to test on, 4 captions" in said[0]
    return tmp_path / "run" / "judge"


def test_a_judge_is_a_plain_model_without_its_text_encoder(captioned, judge, fashion_mnist):
    result = json.loads((judge / "training.json").read_text())
    measured = result["real_images"]["20% of train, held out"]
    assert measured["images"] == 13 and 2 <= measured["candidates"] <= 4 and 0 <= measured["r_precision"] <= 1
    assert not [name for name in load_file(judge / "model.safetensors") if name.startswith("text_model")]
    assert "/" not in (judge / "config.json").read_text()

    model = VisionTextDualEncoderModel.from_pretrained(judge)
    model.text_model = AutoModel.from_pretrained(captioned / "encoder")
    inputs = tiny_tokenizer()(["a red boat"], return_tensors="pt")
    extractor, tower = load_extractor(str(judge)), TextTower(judge, tiny_encoder("bert"), tiny_tokenizer())
    images = torch.from_numpy(fashion_mnist[0])[:4, None]
    with torch.no_grad():
        output = model.eval()(
            pixel_values=images / 127.5 - 1, input_ids=inputs.input_ids, attention_mask=inputs.attention_mask
        )
    torch.testing.assert_close(tower.embed_images(extractor(images)[0]), output.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tower.embed_texts(["a red boat"]), output.text_embeds, atol=1e-5, rtol=1e-4)


def test_a_resumed_training_ends_with_the_same_judge(captioned, judge, tmp_path, monkeypatch, capsys):
    shutil.copytree(judge.parent / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    args = judge_args(captioned, tmp_path / "again", "--resume_from_checkpoint", "latest")
    assert run("train_text_judge.py", args, monkeypatch, capsys) == (0, [])
    once, again = (load_file(folder / "judge" / "model.safetensors") for folder in (judge.parent, tmp_path / "again"))
    assert once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)


def test_pictures_come_nearer_to_their_captions(captioned, tmp_path, monkeypatch, capsys):
    args = judge_args(captioned, tmp_path / "run", "--num_train_epochs", 12, "--learning_rate", 1e-2)
    assert run("train_text_judge.py", args, monkeypatch, capsys) == (0, [])
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 36 and sum(row["loss"] for row in rows[-3:]) < sum(row["loss"] for row in rows[:3]) - 0.3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden_sizes", 8], "--hidden_sizes names 1 stages and --depths 2"),
        (["--train_batch_size", 52], "51 images do not fill one batch of 52"),
        (["--caption_column", "kind"], "no column 'kind'"),
        (["--text_encoder", "/nowhere"], "/nowhere"),
        (["--test_split", "validation"], "no validation images found"),
    ],
)
def test_what_is_wrong_is_one_line(captioned, tmp_path, args, message, monkeypatch, capsys):
    status, lines = run("train_text_judge.py", [*judge_args(captioned, tmp_path), *args], monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and message in lines[0]


def test_a_text_encoder_needs_a_pooled_state(captioned, tmp_path, monkeypatch, capsys):
    tiny_encoder("t5").save_pretrained(tmp_path / "t5")
    tiny_tokenizer().save_pretrained(tmp_path / "t5")
    args = judge_args(captioned, tmp_path / "run", "--text_encoder", tmp_path / "t5")
    status, lines = run("train_text_judge.py", args, monkeypatch, capsys)
    assert status == 2 and "T5EncoderModel has no pooled state of a text" in lines[0]


def test_evaluate_measures_with_it_by_the_pipelines_text_encoder(captioned, judge, tmp_path):
    tiny_text_pipeline("bert").save_pretrained(tmp_path / "text")
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    words = ["evaluate", tmp_path / "text", "--feature-extractor", judge, "--metrics", "r_precision", "--num-images", 104,
             "--num-inference-steps", 4, "--captions", tmp_path / "captions.txt"]  # fmt: skip
    main([*map(str, words), "--output", str(tmp_path / "a.json")])
    main([*map(str, words), "--output", str(tmp_path / "b.json"), "--text-encoder", str(captioned / "encoder")])
    first, second = (json.loads((tmp_path / name).read_text())["values"] for name in ("a.json", "b.json"))
    assert first == second and 0 <= first["r_precision"] < 0.3
    tiny_text_pipeline("clip").save_pretrained(tmp_path / "text")
    with pytest.raises(SystemExit, match="does not store the text encoder.*another one.*--text-encoder"):
        main([*map(str, words), "--output", str(tmp_path / "c.json")])
