"""Searching the strategies of pipelines that draw from text: ours, and aMUSEd's."""

import json

import pytest

from diffusers_autonat import AutoNATAmusedPipeline, AutoNATTextToImagePipeline, GenerationStrategy, NATScheduler
from diffusers_autonat.search import generation_params, generation_space
from tests.pipelines.amused import tiny_amused
from tests.pipelines.text_encoders import tiny_text_pipeline
from tests.search.test_search_scripts import error_of, in_process  # noqa: F401


CAPTIONS = "a red boat\nthe lake\na green tree\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`amused` and `text`, and captions."""
    folder = tmp_path_factory.mktemp("pipelines")
    AutoNATAmusedPipeline.from_amused(tiny_amused()).save_pretrained(folder / "amused")
    tiny_text_pipeline().save_pretrained(folder / "text")
    (folder / "captions.txt").write_text(CAPTIONS)
    return folder


def search(pipeline, output, *more):
    return [pipeline, "--num-inference-steps", 3, "--sampler", "random", "--num-trials", 3, "--confirm-top", 2,
            "--confirm-images", 12, "--output", output, "--write-to-pipeline", *more]  # fmt: skip


@pytest.mark.parametrize("sampler", [[], ["--sampler", "population", "--num-trials", 4, "--num-images", 22]])
def test_amused_is_searched_and_keeps_what_was_found(folder, tmp_path, in_process, sampler):  # noqa: F811
    amused = AutoNATAmusedPipeline.from_pretrained(folder / "amused")
    start = amused.amused_strategy(3)
    start.to_json(tmp_path / "start.json")
    captions = ["--captions", folder / "captions.txt"]
    in_process(search(folder / "amused", tmp_path / "out", "--start", tmp_path / "start.json", *captions, *sampler))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    strategies = [GenerationStrategy.from_dict(row["strategy"]) for row in result["candidates"]]
    assert start in strategies and start.guidance_scales == (9.0,) * 3  # g = 10 of aMUSEd
    assert all(row["macs"] > 0 for row in result["candidates"]) and len(result["captions"]) == 16
    best = strategies[0]
    again = AutoNATAmusedPipeline.from_pretrained(folder / "amused")
    assert again.scheduler.stored_strategies == {12: amused.amused_strategy(12), 3: best}
    assert again("a red boat", num_inference_steps=3).images[0].size == (32, 32)
    assert NATScheduler.from_pretrained(tmp_path / "out").get_strategy(3) == best


def test_other_captions_are_another_study(folder, tmp_path, in_process, capsys):  # noqa: F811
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(CAPTIONS.splitlines())]
    in_process(search(folder / "text", tmp_path, "--captions", folder / "captions.txt"))
    assert 3 in AutoNATTextToImagePipeline.from_pretrained(folder / "text").scheduler.stored_strategies
    capsys.readouterr()
    (tmp_path / "others.txt").write_text("\n".join(row["text"] for row in rows[:2]))
    args = search(folder / "text", tmp_path, "--captions", tmp_path / "others.txt")
    assert "is about something else (captions " in error_of(lambda: in_process(args), capsys)


def test_the_captions_of_the_reference(folder, tmp_path, image_folder, in_process):  # noqa: F811
    files = sorted(image_folder.rglob("*.png"))[:8]
    texts = (CAPTIONS * 3).splitlines()[:8]
    (tmp_path / "images").mkdir()
    for i, file in enumerate(files):
        (tmp_path / "images" / f"{i}.png").write_bytes(file.read_bytes())
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(texts)]
    (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    in_process([folder / "text", "--num-inference-steps", 4, "--sampler", "random", "--num-trials", 1, "--confirm-top", 0,
                "--output", tmp_path / "out", "--reference", tmp_path / "images"])  # fmt: skip
    from diffusers_autonat.metrics import CaptionConditions

    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["captions"] == CaptionConditions(texts).hash


@pytest.mark.parametrize(
    ("pipeline", "more", "message"),
    [
        ("text", [], "reference.npz holds statistics and no captions: give the captions of its images"),
        ("amused", ["--captions", "nowhere.txt"], "nowhere.txt"),
        ("classes", ["--captions", "captions.txt"], "--captions are for pipelines that draw from text"),
    ],
)
def test_captions_that_are_missing_or_not_wanted(folder, tiny, tmp_path, in_process, capsys, pipeline, more, message):  # noqa: F811
    place = tiny / "pipeline" if pipeline == "classes" else folder / pipeline
    args = [place, "--num-inference-steps", 4, "--num-images=1024", "--start", "released", "--output", tmp_path, *more]
    assert message in error_of(lambda: in_process(args), capsys)


def test_a_start_with_more_guidance_than_the_bound_moves_it():
    start = AutoNATAmusedPipeline.amused_strategy(4)
    space = generation_space(start)
    assert {space[f"guidance_scales.{t}"].high for t in range(4)} == {18.0}
    assert generation_params(start, space)["guidance_scales.0"] == 9.0
    usual = generation_space(GenerationStrategy.cosine(4))
    assert usual["guidance_scales.0"].high == 6.0 and space["mask_ratios.0"].high == usual["mask_ratios.0"].high
