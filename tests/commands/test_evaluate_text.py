"""`evaluate` for a pipeline that draws from text."""

import json

import pytest

from diffusers_autonat.cli import main
from tests.conftest import save_tiny_study
from tests.pipelines.text_encoders import save_without_encoder, tiny_text_pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory, fashion_mnist):
    """A folder with `pipeline` (classes), `text`, `judge`, `reference.npz` and two files of captions."""
    folder = tmp_path_factory.mktemp("evaluate-text")
    save_tiny_study(folder, fashion_mnist[0])
    tiny_text_pipeline().save_pretrained(folder / "text")
    (folder / "captions.txt").write_text("a red boat\nthe lake\n")
    (folder / "others.txt").write_text("a green tree\n")
    return folder


def command(place, output, *more, pipeline="text"):
    words = ["evaluate", place / pipeline, "--feature-extractor", place / "judge", "--reference", place / "reference.npz",
             "--num-images", 32, "--num-inference-steps", 4, "--output", output, *more]  # fmt: skip
    return [str(word) for word in words]


def test_the_report_says_what_was_asked_for(place, tmp_path, capsys):
    main(command(place, tmp_path / "a.json", "--captions", place / "captions.txt"))
    assert "captions of captions.txt, seed 0" in capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["images"]["captions"] == "captions.txt" and report["images"]["num_captions"] == 2
    assert "label_policy" not in report["images"] and len(report["pipeline"]["text_encoder"]) == 16
    main(command(place, tmp_path / "b.json", "--captions", place / "others.txt"))
    other = json.loads((tmp_path / "b.json").read_text())
    assert other["values"] != report["values"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "not comparable" in (out := capsys.readouterr().out) and "the images were of other captions" in out


def test_a_pipeline_without_text_encoder_is_given_one(place, tmp_path):
    encoder = save_without_encoder(place / "alone", tmp_path / "encoder")
    captions = ("--captions", place / "captions.txt")
    main(command(place, tmp_path / "whole.json", *captions))
    main(command(place, tmp_path / "alone.json", *captions, "--text-encoder", encoder, pipeline="alone"))
    whole, alone = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "alone"))
    assert alone["values"] == whole["values"] and alone["pipeline"] == whole["pipeline"] | {"name": "alone"}


def test_its_tokenizer_is_measured_without_prompts(place, idx_folder, tmp_path):
    words = command(place, tmp_path / "r.json", "--reconstruct", idx_folder)
    steps = words.index("--num-inference-steps")
    main(words[:steps] + words[steps + 2 :])
    assert json.loads((tmp_path / "r.json").read_text())["images"]["kind"] == "reconstructed"


@pytest.mark.parametrize(
    ("pipeline", "more", "message"),
    [
        ("text", [], "reference.npz holds statistics and no captions"),
        ("text", ["--captions", "captions.txt", "--label-policy", "uniform"], "--label-policy is for pipelines with classes"),
        ("text", ["--captions", "nowhere.txt"], "nowhere.txt"),
        ("pipeline", ["--captions", "captions.txt"], "--captions are for pipelines that draw from text"),
        ("text", ["--captions", "captions.txt", "--metrics", "class"], "leave class out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_the_first_image(place, tmp_path, monkeypatch, pipeline, more, message):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit, match=message) as error:
        main(command(place, tmp_path / "r.json", *more, pipeline=pipeline))
    assert "\n" not in str(error.value) and not (tmp_path / "r.json").exists()
