"""What a search leaves behind: the better strategy, measured by what it is compared with, and what is said of it."""

import json
import shutil

import pytest

from diffusers_autonat import GenerationStrategy, NATScheduler
from tests.search.test_search_scripts import error_of, in_process  # noqa: F401


@pytest.fixture
def search(tiny, in_process):  # noqa: F811
    """Search T = 4 in a few random trials; `result.json` then."""

    def call(output, *args, pipeline=tiny / "pipeline"):
        in_process([pipeline, "--num-inference-steps", 4, "--sampler", "random", "--num-trials", 3, "--confirm-top", 3,
                    "--confirm-images", 24, "--output", output, *args])  # fmt: skip
        return json.loads((output / "result.json").read_text())

    return call


def stored(folder):
    return NATScheduler.from_pretrained(folder).get_strategy(4)


def test_what_a_better_search_left_in_the_folder_stays(search, tmp_path, capsys):
    for seed in range(4):  # into one folder, measured by the same images
        best = min(row["value"] for row in search(tmp_path, "--seed", seed, "--study-name", seed)["candidates"])
        origin = json.loads((tmp_path / "search.json").read_text())["4"]
        assert origin["value"] == best
    rows = json.loads((tmp_path / "result.json").read_text())["candidates"]
    assert "earlier, T = 4" in {row["label"] for row in rows}
    assert GenerationStrategy.from_dict(min(rows, key=lambda row: row["value"])["strategy"]) == stored(tmp_path)
    assert origin["trial"].startswith("trial")  # of the search that found it
    assert "stays as it is" in capsys.readouterr().out


def test_what_an_earlier_search_found_is_told_as_it_told_it(search, tiny, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny / "pipeline", folder)
    values = {}
    for seed in (0, 1):
        rows = search(tmp_path / f"{seed}", "--seed", seed, "--study-name", f"of seed {seed}", pipeline=folder)[
            "candidates"
        ]
        values[seed] = min(row["value"] for row in rows)
    best = tmp_path / f"{min(values, key=values.get)}"
    said = json.loads((best / "search.json").read_text())["4"]
    # One trial, the start, which is worse than what lies in --output: that goes into the pipeline.
    search(
        best,
        "--num-trials",
        1,
        "--study-name",
        "again",
        "--write-to-pipeline",
        "--remasking-temperature",
        9,
        pipeline=folder,
    )
    for written in (best, folder / "scheduler"):
        assert json.loads((written / "search.json").read_text())["4"] == said


def test_an_unconfirmed_strategy_takes_no_confirmed_ones_place(search, tmp_path, capsys):
    search(tmp_path)
    said = (tmp_path / "search.json").read_text()
    for other in ([], ["--study-name", "other"]):  # the same search, whose best trial may be another by its own noise
        capsys.readouterr()
        line = error_of(lambda other=other: search(tmp_path, "--confirm-top", 0, *other), capsys)
        assert "has a confirmed strategy of 4 steps" in line and line.endswith("or --force")
    assert (tmp_path / "search.json").read_text() == said
    search(tmp_path, "--confirm-top", 0, "--force")


def test_curves_through_all_steps_are_the_start(search, tmp_path):
    rows = search(tmp_path, "--num-inference-steps", 8, "--knots", 8, "--num-trials", 1)["candidates"]
    assert [row["label"] for row in rows] == ["start, T = 8"]


def test_the_same_search_again_measures_nothing_again(search, tmp_path):
    first, again = search(tmp_path), search(tmp_path)
    assert first == again


def test_what_is_said_of_a_start_that_was_stored_stays(search, tiny, tmp_path, capsys):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny / "pipeline", folder)
    search(tmp_path / "first", "--write-to-pipeline", "--force", pipeline=folder)
    said = (folder / "scheduler" / "search.json").read_text()
    assert json.loads(said)["4"]["trial"].startswith("trial")
    rows = search(tmp_path / "second", "--write-to-pipeline", "--start", "stored", "--num-trials", 1, pipeline=folder)
    assert [row["label"] for row in rows["candidates"]] == ["start, T = 4"]  # the first trial is the start
    assert (folder / "scheduler" / "search.json").read_text() == said
    assert f"{folder}/scheduler stays as it is" in capsys.readouterr().out


def test_the_start_that_was_named_is_measured_beside_its_curves(search, tmp_path, figures):
    named = GenerationStrategy.cosine(8, remasking_temperature=2)
    rows = {
        row["label"]: row
        for row in search(tmp_path, "--num-inference-steps", 8, "--remasking-temperature", 2)["candidates"]
    }
    assert GenerationStrategy.from_dict(rows["start, T = 8"]["strategy"]) == named
    curves = GenerationStrategy.from_dict(rows["start, T = 8, as curves"]["strategy"])
    assert not curves.acts_as(named) and rows["start, T = 8, as curves"]["value"] != rows["start, T = 8"]["value"]
    drawn = [line.get_ydata() for line in figures[0].axes[0].lines]
    assert [list(values) for values in drawn][1] == list(named.mask_ratios)


def test_distances_are_told_without_the_penalty(search, tmp_path, capsys):
    free = {row["label"]: row["value"] for row in search(tmp_path / "free")["candidates"]}
    capsys.readouterr()
    result = search(tmp_path / "bound", "--constraint", "class_consistency>=0.99")
    printed = capsys.readouterr()
    start = next(row for row in result["candidates"] if row["label"] == "start, T = 4")
    assert start["value"] == free["start, T = 4"] == start["values"]["frechet_distance"]
    best = result["candidates"][0]
    origin = json.loads((tmp_path / "bound" / "search.json").read_text())["4"]
    assert origin["value"] == best["value"] and all(abs(gain["gain"]) < 1 for gain in origin["gains"])
    assert f"{best['value']:.4f}" in printed.out and "class_consistency>=0.99" in printed.out.splitlines()[1]
    [note] = result["notes"]
    share = best["values"]["class_consistency"]
    assert f"it misses class_consistency>=0.99: class_consistency is {share:.4f}" in note and note in printed.err
    assert note in (tmp_path / "bound" / "README.md").read_text()


def test_a_constraint_is_on_any_value_of_an_evaluation(search, tmp_path, image_folder, capsys):
    result = search(tmp_path / "kept", "--constraint", "recall>=1e-9", "--reference", image_folder)
    assert all("recall" in row["values"] for row in result["candidates"])
    capsys.readouterr()
    line = error_of(lambda: search(tmp_path / "other", "--constraint", "fid<=0.5"), capsys)
    assert "the constraint is on fid; " in line and "frechet_distance" in line
    population = ["--sampler", "population", "--num-trials", 4, "--constraint", "recall<=1"]
    line = error_of(lambda: search(tmp_path / "none", *population), capsys)
    assert line.endswith("recall<=1 takes another --sampler")
