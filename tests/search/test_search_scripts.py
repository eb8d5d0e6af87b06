"""The scripts as a user runs them, on a tiny pipeline: results, resuming after SIGKILL, and errors before the first image."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.container import ErrorbarContainer

from diffusers_autonat import (
    AutoNATPipeline,
    EntropyBoundedScheduler,
    EntropyStrategy,
    GenerationStrategy,
    NATScheduler,
)
from diffusers_autonat.metrics import load_extractor
from diffusers_autonat.search import open_storage
from diffusers_autonat.search.workers import is_lost
from diffusers_autonat.strategy_files import read_strategy
from tests.conftest import save_tiny_classifier


SCRIPTS = Path(__file__).parents[2] / "search"
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(script, tiny, *args):
    evaluation = ["--reference", tiny / "reference.npz", "--feature-extractor", tiny / "judge", "--num-images", 12]
    return [str(word) for word in (sys.executable, SCRIPTS / script, *args[:1], *evaluation, *args[1:])]


def trials_of(journal, study):
    import optuna

    return optuna.load_study(study_name=study, storage=open_storage(journal)).trials


@pytest.fixture(scope="module")
def searched(tiny, tmp_path_factory):
    """A search of two workers, one of which is killed with SIGKILL on the way; written into the pipeline."""
    output = tmp_path_factory.mktemp("search")
    args = [tiny / "pipeline", "--num-inference-steps", 4, "--free", "guidance_scales", "--sampler", "released",
            "--num-trials", 21, "--confirm-top", 2, "--confirm-images", 24, "--output", output, "--write-to-pipeline"]  # fmt: skip
    words = command("search_generation.py", tiny, *args)
    workers = [subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    journal = output / "search.journal"
    while all(worker.poll() is None for worker in workers):
        if journal.exists() and journal.read_text().count('"state":1') >= 3:
            break
        time.sleep(0.02)
    workers[0].kill()
    finished = [t for t in trials_of(journal, "released-T4") if t.value is not None]
    text = workers[1].communicate(timeout=300)[0]
    workers[0].communicate()
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0]
    return output, finished, text


def test_one_of_two_workers_killed(searched):
    output, finished, text = searched
    trials = trials_of(output / "search.journal", "released-T4")
    complete = [t for t in trials if t.value is not None]
    assert len(complete) == 21 and sum(is_lost(t) for t in trials) <= 1
    assert (
        3 <= len(finished) < 21
        and {t.number: t.values for t in finished}.items() <= {t.number: t.values for t in complete}.items()
    )
    assert text.startswith("T = 4: frechet_distance ") and "fresh noise" in text


def test_results_load(searched, tiny):
    output = searched[0]
    result = json.loads((output / "result.json").read_text())
    best = GenerationStrategy.from_dict(result["candidates"][0]["strategy"])
    assert NATScheduler.from_pretrained(output).get_strategy(4) == best
    stored = AutoNATPipeline.from_pretrained(tiny / "pipeline").scheduler.stored_strategies
    assert stored == {4: best, 8: GenerationStrategy.cosine(8)}
    origin = json.loads((tiny / "pipeline" / "scheduler" / "search.json").read_text())["4"]
    assert origin["num_images"] == 24 and origin["seed"] == 1_000_003 and origin["search"]["num_images"] == 12
    assert origin["study"] == "released-T4" and origin["metric_name"] == "frechet_distance" and origin["confirmed"]
    assert (
        origin["versions"]["torch"]
        and len(origin["pipeline"]) == 16
        and "fid" not in result["candidates"][0]["values"]
    )
    for name in ("trials.csv", "schedules.png", "history.png"):
        assert (output / name).stat().st_size > 1000
    assert read_strategy(str(output / "strategy-T4.json")) == best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--num-inference-steps", 8], "search_generation.py: study 'mine' is about something else (num_inference_steps [4]"),
        (["--seed", 5], "study 'mine' is about something else (seed 0 there and 5 here): give another --study-name or --output"),
        (["--free"], "expected at least one argument"),
        (["--storage", "/proc/nothing/journal"], "the storage /proc/nothing/journal cannot be written"),
        (["--objective", "distance,cost", "--sampler", "cmaes"], "--sampler cmaes has one objective"),
        (["--rungs", 50], "--rungs [50] must rise and stay below --num-images 12"),
        (["--confirm-seed", 0, "--confirm-top", 1], "winners need fresh noise"),
        (["--confirm-top", -1], "--confirm-top: -1 is not a whole number of at least 0"),
        (["--seed", -1], "--seed: -1 is not a whole number from 0 to 2147483647"),
        (["--confirm-seed", 10**30], "is not a whole number from 0 to 2147483647"),
        (["--study-name", " "], "--study-name is empty"),
        (["--output", "/proc/nothing"], "/proc/nothing/search.journal cannot be written"),
        (["--start", "nothing.json"], "nothing.json"),
        (["--remasking-temperature", "nan"], "--remasking-temperature: nan is not a finite number"),
        (["--guidance-scale", "1e39"], "guidance_scale = 1e+39 must be finite"),
        (["--num-inference-steps", 10**9], "must be a whole number from 1 to 10,000"),
        (["--sampler", "finite-difference"], "1 trials are not enough for one update"),
        (["--knots", 5], "5 knots: curves of 4 steps have 2 to 4"),
        (["--sampler", "population", "--num-trials", 4, "--num-images", 1024, "--metric", "kid"],
         "The kernel distance needs features, and"),
        (["--sampler", "population", "--num-trials", 4, "--num-images", 13], "num_images = 13 must be an even number"),
        (["--reference", "nothing.npz"], "nothing.npz"),
        (["--second-reference", "nothing.npz"], "--second-reference goes with --second-feature-extractor"),
        (["--second-feature-extractor", "inception"], "and --confirm-top 0 makes none"),
        (["--write-to-pipeline"], "without a confirmation nobody knows whether what is stored is better"),
    ],
)  # fmt: skip
def test_clear_errors(tiny, tmp_path_factory, change, message, in_process, capsys):
    folder = tmp_path_factory.getbasetemp() / "errors"
    args = [tiny / "pipeline", "--num-inference-steps", 4, "--sampler", "random", "--num-trials", 1, "--confirm-top", 0,
            "--study-name", "mine", "--output", folder]  # fmt: skip
    if not folder.exists():
        in_process(args)
        capsys.readouterr()
    assert message in error_of(lambda: in_process([*args, *change]), capsys)


def error_of(call, capsys):
    """The line that a script ends with, before the first trial."""
    with pytest.raises(SystemExit) as stopped:
        call()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out and "trial/s" not in printed.err and "Traceback" not in printed.err
    return printed.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("search.json", "[]", "search.json does not say where strategies come from"),
        ("search.json", "{", "search.json is not JSON"),
        ("scheduler_config.json", '{"strategies": 0}', "strategies"),
        ("search.journal", "notes\n", "search.journal is not a journal of Optuna"),
    ],
)
def test_what_lies_in_the_output_folder_is_read_first(tiny, tmp_path, in_process, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert message in error_of(lambda: in_process([tiny / "pipeline", "--output", tmp_path]), capsys)
    assert (tmp_path / name).read_text() == content


def test_a_torn_journal_of_a_finished_search_is_told_in_one_line(tiny, tmp_path, in_process, capsys, caplog):
    args = [tiny / "pipeline", "--num-inference-steps", 4, "--sampler", "random", "--num-trials", 2, "--confirm-top", 0,
            "--output", tmp_path]  # fmt: skip
    in_process(args)
    result, journal = json.loads((tmp_path / "result.json").read_text()), tmp_path / "search.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"worker')
    for _ in range(2):
        in_process(args)
    assert json.loads((tmp_path / "result.json").read_text())["candidates"] == result["candidates"]
    [line] = [record.getMessage() for record in caplog.records if "torn" in record.getMessage()]
    assert str(journal) in line and "\n" not in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["samplers", "--redraw-noise", "--samplers", "finite-difference"],
            "--redraw-noise: finite-difference compares",
        ),
        (
            ["samplers", "--start", "stored", "--redraw-noise", "--samplers", "tpe", "gp"],
            "--redraw-noise: gp compares",
        ),
        (["orders", "--sampler", "finite-difference", "--redraw-noise"], "--redraw-noise: finite-difference compares"),
        (["samplers", "--num-trials", 3, "--samplers", "released"], "3 trials are not enough for one update"),
        (["samplers", "--floor", "nothing.json"], "nothing.json"),
        (["samplers", "--study-name", "../up"], "--study-name ../up names the results too"),
        (["baseline", "--lambdas", "nan"], "--lambdas: nan is not a finite number"),
        (["free", "--start", "nothing.yaml"], "nothing.yaml"),
        (["orders", "--start", "released"], "each order is searched from its own heuristic"),
        (["training", "--alphas", 1, 1, "--", "--train_data_dir", "x"], "a grid needs at least two"),
        (["training"], "name no data"),
    ],
)
def test_experiments_are_checked_before_the_reference_is_read(tmp_path, in_process, capsys, args, message):
    args = [*args[:1], *([] if args[0] == "training" else ["no-pipeline"]), "--reference", "no-reference.npz",
            "--output", tmp_path, *args[1:]]  # fmt: skip
    assert message in error_of(lambda: in_process(args, "experiments.py"), capsys)
    assert not (tmp_path / "search.journal").exists()


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_a_population_along_curves(tiny, tmp_path, in_process, idx_folder, metric, figures):
    args = [tiny / "pipeline", "--num-inference-steps", 6, "--knots", 3, "--sampler", "population", "--num-trials", 4,
            "--num-images", 22, "--confirm-top", 1, "--confirm-images", 24, "--output", tmp_path,
            "--metric", metric, "--reference", idx_folder]  # fmt: skip
    in_process(args)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metric_name"] == {"fid": "frechet_distance", "kid": "kernel_distance"}[metric]
    assert {row["label"] for row in result["candidates"]} & {"trial 2", "trial 3"}
    assert all(len(row["strategy"]["mask_ratios"]) == 6 for row in result["candidates"])
    trials = trials_of(tmp_path / "search.journal", "population-T6")
    assert [trial.params["noise"] for trial in trials] == [1, 1, 0, 0]
    assert len(trials[0].params) == 3 * 4 - 2 + 1  # nothing is re-masked at the last knot; and the noise
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["population"] for row in rows if row["state"] == "COMPLETE"] == ["True", "True", "False", "False"]
    populations, single, _ = figures[-1].axes[0].lines
    assert list(populations.get_xdata()) == [0, 1] and list(single.get_xdata()) == [2, 3]


def test_where_nobody_says_a_population_is_searched(tiny, tmp_path, in_process):
    in_process([tiny / "pipeline", "--num-inference-steps", 4, "--free", "guidance_scales", "--confirm-images", 24,
                "--output", tmp_path])  # fmt: skip
    trials = trials_of(tmp_path / "search.journal", "population-T4")
    assert [trial.params["noise"] > 0 for trial in trials] == [True] * 40 + [False] * 2


def test_start_stored_and_found_are_measured_together_and_the_best_is_kept(tiny, tmp_path, in_process, capsys):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny / "pipeline", folder)
    before = NATScheduler.from_pretrained(folder, subfolder="scheduler").get_strategy(4)
    args = [folder, "--num-inference-steps", 4, "--remasking-temperature", 2, "--sampler", "random", "--num-trials", 2,
            "--confirm-top", 2, "--confirm-images", 24, "--write-to-pipeline", "--output", tmp_path / "search"]  # fmt: skip
    in_process(args)
    rows = json.loads((tmp_path / "search" / "result.json").read_text())["candidates"]
    assert {row["label"] for row in rows} == {"trial 1", "start, T = 4", "stored, T = 4"}
    assert all(row["values"]["frechet_distance_error"] > 0 for row in rows)
    printed = capsys.readouterr().out
    table = printed.splitlines()[1:5]
    assert table[0].split() == ["strategy", "frechet_distance", "error", "recognised", "the", "first", "gains"]
    assert {line[:10].strip() for line in table[1:]} == {"start, T =", "stored, T", "found, tri"}
    assert sum("times the noise" in line for line in table) == 2 and sum("%" in line for line in table) == 3
    best = GenerationStrategy.from_dict(min(rows, key=lambda row: row["value"])["strategy"])
    assert NATScheduler.from_pretrained(folder, subfolder="scheduler").get_strategy(4) == best
    assert ("stays as it is" in printed) == (best == before)

    in_process([*args, "--force"])
    [found] = [GenerationStrategy.from_dict(row["strategy"]) for row in rows if row["label"] == "trial 1"]
    assert NATScheduler.from_pretrained(folder, subfolder="scheduler").get_strategy(4) == found


def test_a_second_extractor_judges_what_is_confirmed(tiny, tmp_path, in_process, capsys, idx_folder):
    save_tiny_classifier(tmp_path / "second", seed=1)
    args = [tiny / "pipeline", "--num-inference-steps", 3, "--sampler", "random", "--num-trials", 3, "--confirm-top", 3,
            "--confirm-images", 24, "--output", tmp_path / "search"]  # fmt: skip
    in_process(args)
    first = json.loads((tmp_path / "search" / "result.json").read_text())["candidates"]
    capsys.readouterr()
    args += ["--second-feature-extractor", tmp_path / "second"]
    line = error_of(lambda: in_process(args), capsys)
    assert "was made by" in line and line.endswith(
        "give the second extractor a reference of its own: --second-reference"
    )
    # It may be asked after all: nothing of the search is done again.
    journal = tmp_path / "search" / "search.journal"
    trials = trials_of(journal, "random-T3")
    in_process([*args, "--second-reference", idx_folder])
    assert trials_of(journal, "random-T3") == trials
    printed, result = capsys.readouterr(), json.loads((tmp_path / "search" / "result.json").read_text())
    for one, again in zip(first, result["candidates"]):
        second = {name: value for name, value in again["values"].items() if name.startswith("second_")}
        assert one["values"] == {name: value for name, value in again["values"].items() if name not in second}
        assert second["second_frechet_distance"] != one["values"]["frechet_distance"]
    assert "second_frechet_distance" in printed.out.splitlines()[1]
    origin = json.loads((tmp_path / "search" / "search.json").read_text())["3"]
    assert origin["second_extractor"] == load_extractor(str(tmp_path / "second")).weights_hash
    assert origin["second_frechet_distance"] == result["candidates"][0]["values"]["second_frechet_distance"]
    card = (tmp_path / "search" / "README.md").read_text()
    assert "Fréchet distance, second extractor" in card and origin["second_reference"] in card
    [gain] = origin["gains"]
    assert origin["trial"].startswith("trial") and gain["over"] == "start, T = 3" and gain["gain"] > 0
    note = "is not seen by the second extractor"
    assert gain["unseen"] == (note in printed.err) == (note in card) == bool(result["notes"])


def test_wrong_feature_width(tiny, tmp_path, in_process, capsys):
    import numpy as np

    np.savez(tmp_path / "wide.npz", mu=np.zeros(9), sigma=np.eye(9))
    args = [tiny / "pipeline", "--sampler", "random", "--reference", tmp_path / "wide.npz", "--output", tmp_path]
    assert "9 features" in error_of(lambda: in_process(args), capsys)
    assert not trials_count(tmp_path)


def has_whiskers(figure) -> bool:
    return any(isinstance(drawn, ErrorbarContainer) for drawn in figure.axes[0].containers)


def test_confirmed_points_of_a_front_have_whiskers(tiny, tmp_path, in_process, figures):
    args = [tiny / "pipeline", "--objective", "distance,cost", "--num-inference-steps", 2, 4, "--num-trials", 2,
            "--confirm-top", 1, "--confirm-images", 14, "--output", tmp_path]  # fmt: skip
    in_process(args)
    assert has_whiskers(figures[-1]) and (tmp_path / "front.png").exists()
    unconfirmed = tmp_path / "unconfirmed"
    in_process([*args[:-1], unconfirmed, "--confirm-top", 0, "--num-trials", 4])
    assert not has_whiskers(figures[-1])
    shown = {
        (row["value"], row["macs"]) for row in json.loads((unconfirmed / "result.json").read_text())["candidates"]
    }
    points = {tuple(trial.values) for trial in trials_of(unconfirmed / "search.journal", "nsga2-T2-T4")}
    front = {(a, b) for a, b in points if not any(c <= a and d <= b for c, d in points - {(a, b)})}
    assert len(front) > 1 and front <= shown
    assert sorted(path.name for path in unconfirmed.glob("strategy-*")) == ["strategy-T2.json", "strategy-T4.json"]


def test_samplers_are_compared_by_confirmed_values(tiny, tmp_path, in_process, capsys, figures):
    args = ["samplers", tiny / "pipeline", "--samplers", "random", "tpe", "--repetitions", 2, "--num-trials", 2,
            "--num-images", 32, "--confirm-images", 14, "--output", tmp_path]  # fmt: skip
    line = error_of(lambda: in_process([*args, "--confirm-top", 0], "experiments.py"), capsys)
    assert "--confirm-top 0" in line and not (tmp_path / "search.journal").exists()
    in_process([*args, "--within-passes", 10_000], "experiments.py")
    result = json.loads((tmp_path / "samplers-T4.json").read_text())
    assert [(row["sampler"], row["seed"], row["trials"]) for row in result["rows"]] == [
        (sampler, seed, 2) for seed in (0, 1000) for sampler in ("random", "tpe")
    ]
    assert all(row["value"] <= row["start_value"] for row in result["rows"])
    different = {json.dumps(row["found_strategy"]) for row in result["rows"]}
    assert len({row["start_value"] for row in result["rows"]}) == 1
    assert trials_count(tmp_path) == 4 + 1  # what searches share is measured once
    confirmed = trials_of(tmp_path / "search.journal", "samplers-T4-confirm-14-1000003")
    stored = NATScheduler.from_pretrained(tiny / "pipeline", subfolder="scheduler").stored_strategies[4]
    others = {json.dumps(result["rows"][0]["start_strategy"]), json.dumps(stored.to_dict())}
    assert len(confirmed) == len(different | others)
    assert all(row["within_value"] == row["found_value"] >= row["value"] for row in result["rows"])
    assert all(row["processes"] == 1 and row["within_passes"] == 10_000 for row in result["rows"])
    # Each pass of the first step is shared by all images of a class, which `passes_unshared` leaves out.
    first_step = 2 * (4 + 1)
    assert all(
        row["images"] == 64 and 0 < row["passes"] <= row["passes_unshared"] + first_step for row in result["rows"]
    )
    assert all(row["within_unshared_value"] == row["found_value"] for row in result["rows"])
    best = json.loads((tmp_path / "samplers-T4-strategy.json").read_text())
    assert best == min(result["rows"], key=lambda row: row["value"])["strategy"]
    assert all({gain["over"] for gain in row["gains"]} <= {"start", "stored"} for row in result["rows"])
    (first, second), passes = (
        [x for x, _ in result["rows"][-1][key]] for key in ("best_so_far", "best_so_far_by_passes")
    )
    assert second == 2 * first and first < passes[0] < passes[1]
    assert (tmp_path / "samplers-T4-passes.png").exists()
    assert has_whiskers(figures[-1])  # over seeds
    assert " thread" in result["hardware"] and set(result["versions"]) >= {"torch", "optuna"}


def test_of_a_descent_its_end_is_confirmed_too(tiny, tmp_path, in_process):
    args = ["samplers", tiny / "pipeline", "--samplers", "released", "--repetitions", 1, "--num-trials", 31,
            "--num-images", 8, "--confirm-images", 14, "--output", tmp_path]  # fmt: skip
    in_process(args, "experiments.py")
    [row] = json.loads((tmp_path / "samplers-T4.json").read_text())["rows"]
    trials = trials_of(tmp_path / "search.journal", row["study"])
    end = max(trials, key=lambda trial: trial.number).user_attrs["strategy"]
    [confirmed] = [
        trial for trial in trials_of(tmp_path / "search.journal", "samplers-T4-confirm-14-1000003")
        if trial.user_attrs["strategy"] == end
    ]  # fmt: skip
    assert row["end_value"] == confirmed.value


def test_a_baseline_of_something_else_is_refused_before_the_search(tiny, tmp_path, in_process, capsys):
    args = ["baseline", tiny / "pipeline", "--lambdas", 2, "--ks", 1, "--confirm-images", 14, "--output", tmp_path]
    in_process(args, "experiments.py")
    tuned = tmp_path / "baseline-T4.json"
    known = json.loads(tuned.read_text())
    search = ["free", tiny / "pipeline", "--sampler", "random", "--num-trials", 1, "--confirm-images", 14, "--output",
              tmp_path / "free", "--baseline", tuned]  # fmt: skip
    for key, other in (("pipeline", "another"), ("num_inference_steps", 8), ("confirm_seed", 1)):
        tuned.write_text(json.dumps({**known, key: other}))
        capsys.readouterr()
        line = error_of(lambda: in_process(search, "experiments.py"), capsys)
        assert f"is of {key} {other!r}, here it is {known[key]!r}" in line and not list(tmp_path.glob("free/*.json"))
    tuned.write_text(json.dumps(known))


def test_one_sampler_shows_what_each_seed_found(tiny, tmp_path, in_process, figures):
    args = ["samplers", tiny / "pipeline", "--samplers", "random", "--repetitions", 2, "--num-trials", 2,
            "--confirm-images", 14, "--output", tmp_path]  # fmt: skip
    in_process(args, "experiments.py")
    assert [path.name for path in tmp_path.glob("*.png")] == ["samplers-T4.png"]
    labels = {text.get_text() for legend in figures[-1].legends for text in legend.get_texts()}
    labels |= {
        text.get_text() for axis in figures[-1].axes if axis.get_legend() for text in axis.get_legend().get_texts()
    }
    assert {"seed 0", "seed 1000"} < labels
    rows = json.loads((tmp_path / "samplers-T4.json").read_text())["rows"]
    assert all(row["found_macs"] > 0 for row in rows)


def test_orders_are_searched_each_from_its_own_heuristic(tiny, tmp_path, in_process, figures):
    args = ["orders", tiny / "pipeline", "--sampler", "random", "--num-trials", 2, "--guidance-scale", 2,
            "--confirm-images", 14, "--output", tmp_path]  # fmt: skip
    in_process(args, "experiments.py")
    rows = {row["order"]: row for row in json.loads((tmp_path / "orders-T4.json").read_text())["rows"]}
    assert list(rows) == ["confidence", "Halton", "random", "dilated", "entropy-bounded", "ReMDM"]
    assert "entropy_bounds" in rows["entropy-bounded"]["free"] and "remasking_rates" in rows["ReMDM"]["free"]
    noisy = [order for order, row in rows.items() if "remasking_temperatures" in row["free"]]
    assert noisy == ["confidence"]  # for the others it has no effect
    assert all(row["value"] <= row["start_value"] and row["macs"] > 0 for row in rows.values())
    assert len({row["start_value"] for row in rows.values()}) > 3  # of other images
    assert (tmp_path / "orders-T4.png").stat().st_size > 1000 and has_whiskers(figures[-1])
    studies = trials_count(tmp_path)
    in_process(args, "experiments.py")  # everything is there already
    assert trials_count(tmp_path) == studies
    in_process([*args, "--study-name", "again", "--seed", 1000, "--orders", "random", "ReMDM"], "experiments.py")
    again = json.loads((tmp_path / "again.json").read_text())["rows"]
    assert [row["order"] for row in again] == ["random", "ReMDM"]
    assert again[0]["start_value"] == rows["random"]["start_value"]  # what is searched anew is confirmed alike


def test_samplers_are_compared_within_the_passes_of_the_first(tiny, tmp_path, in_process, capsys):
    args = ["samplers", tiny / "pipeline", "--repetitions", 1, "--num-trials", 2, "--num-images", 32, "--confirm-images", 14,
            "--output", tmp_path, "--within-passes", "random", "--samplers"]  # fmt: skip
    line = error_of(lambda: in_process([*args, "tpe", "random"], "experiments.py"), capsys)
    assert "--within-passes random" in line and not (tmp_path / "search.journal").exists()
    in_process([*args, "random", "tpe"], "experiments.py")
    first, other = json.loads((tmp_path / "samplers-T4.json").read_text())["rows"]
    assert first["within_value"] == first["found_value"]
    within = [value for passes, value in other["best_so_far_by_passes"] if passes <= first["passes"]]
    [confirmed] = {other[f"{label}_value"] for label in (["found"] if len(within) == 2 else ["start"])}
    assert other["within_value"] == confirmed


@pytest.mark.parametrize("experiment", ["samplers", "free", "orders"])
def test_rows_of_the_results_are_not_searched_again_without_their_journal(tiny, tmp_path, in_process, experiment):
    samplers = ["--samplers", "random", "--repetitions", 2] if experiment == "samplers" else ["--sampler", "random"]
    args = [experiment, tiny / "pipeline", *samplers, "--num-trials", 1, "--confirm-images", 14, "--output", tmp_path]
    in_process(args, "experiments.py")
    file, journal = tmp_path / f"{experiment}-T4.json", tmp_path / "search.journal"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "rows": whole["rows"][:1]}))
    journal.unlink()
    in_process(args, "experiments.py")
    assert json.loads(file.read_text()) == whole
    import optuna

    searches = [name for name in optuna.get_all_study_names(open_storage(journal)) if "confirm" not in name]
    assert searches == [row["study"] for row in whole["rows"][1:]]


@pytest.mark.parametrize("experiment", ["baseline", "samplers", "free", "orders", "concurrent", "training"])
def test_results_of_other_settings_are_not_lost(tiny, candidates, tmp_path, in_process, capsys, experiment):
    of_trainings = [
        "--num-inference-steps",
        4,
        *(["--num-trials", 1] if experiment == "concurrent" else []),
        *candidates,
    ]
    grid = ["--lambdas", 2, "--ks", 1] if experiment == "baseline" else []
    several = ["--samplers", "random", "--repetitions", 1] if experiment == "samplers" else ["--sampler", "random"]
    searches = [] if experiment == "baseline" else [*several, "--num-trials", 1]
    orders = ["--orders", "confidence"] if experiment == "orders" else []
    args = [experiment, *(of_trainings if experiment in ("concurrent", "training") else
            [tiny / "pipeline", *grid, *searches, *orders, "--confirm-images", 14, "--output", tmp_path])]  # fmt: skip

    def call(*more):
        in_process([args[0], *more, *args[1:]], "experiments.py")

    call()
    [file] = [file for file in tmp_path.glob("*-T4.json") if "experiment" in json.loads(file.read_text())]
    journal, before = (tmp_path / "search.journal").stat().st_size, file.read_text()
    constrained = ["--constraint", "class_consistency>=0.99"]
    started = [] if experiment in ("baseline", "orders") else [["--guidance-scale", 2]]
    for key, others in (
        ("confirm_seed", ["--confirm-seed", 7]),
        ("constraint", constrained),
        *(("", o) for o in started),
    ):
        capsys.readouterr()
        line = error_of(lambda others=others: call(*others), capsys)
        assert f"{file} has results of another {key}" in line and line.endswith("--study-name"), line
    assert file.read_text() == before and (tmp_path / "search.journal").stat().st_size == journal
    file.write_text(json.dumps({**json.loads(before), "constraint": "class_consistency>=0.99"}))
    assert "of another constraint" in error_of(call, capsys)  # nor those with what is not asked for now


def test_a_grid_may_grow_and_not_lose_what_was_measured(tiny, tmp_path, in_process, capsys):
    args = ["baseline", tiny / "pipeline", "--confirm-images", 14, "--output", tmp_path, "--ks", 1, "--lambdas"]
    in_process([*args, 2], "experiments.py")
    capsys.readouterr()
    line = error_of(lambda: in_process([*args, 3], "experiments.py"), capsys)
    assert "baseline-T4.json has results of lambda 2, k 1: move it away" in line
    in_process([*args, 2, 3], "experiments.py")
    assert len(json.loads((tmp_path / "baseline-T4.json").read_text())["grid"]) == 2


def test_strategies_of_training_that_were_measured_are_not_lost(candidates, tmp_path, in_process, capsys):
    in_process(["training", *candidates], "experiments.py")
    other = [3 if one == 2 else one for one in candidates]  # of --alphas 1 2 and --betas 1 2
    capsys.readouterr()
    line = error_of(lambda: in_process(["training", *other], "experiments.py"), capsys)
    assert "training-strategies-T4.json has results of Beta(" in line


@pytest.mark.parametrize(("script", "first", "written"), [
    ("experiments.py", ["training"], "training-strategies-T4"),
    ("experiments.py", ["concurrent", "--num-trials", 1], "concurrent-T4"),
    ("search_alternating.py", ["--rounds=1", "--sampler", "random", "--num-trials", 1, "--confirm-top", 1], "alternating"),
    ("search_training.py", ["--confirm-top=0"], "training_strategy"),
])  # fmt: skip
def test_results_of_trainings_tell_no_folder_of_this_machine(candidates, tmp_path, in_process, script, first, written):
    in_process([*first, *candidates], script)
    result = json.loads((tmp_path / f"{written}.json").read_text())
    assert result["training"] == [Path(sys.executable).name, "launcher.py", "--train_data_dir", "tokens"]
    assert str(tmp_path) not in json.dumps(result)


def test_fewer_samplers_leave_the_summary_whole(tiny, tmp_path, in_process, monkeypatch):
    start = tmp_path / "start.json"
    start.write_text(json.dumps(GenerationStrategy.cosine(4).to_dict()))
    args = ["samplers", tiny / "pipeline", "--num-trials", 2, "--confirm-images", 14, "--output", tmp_path]
    in_process([*args, "--start", start, "--samplers", "random", "tpe", "--repetitions", 2], "experiments.py")
    file, best = tmp_path / "samplers-T4.json", tmp_path / "samplers-T4-strategy.json"
    whole, strategy, pictures = json.loads(file.read_text()), best.read_text(), sorted(tmp_path.glob("*.png"))
    monkeypatch.chdir(tmp_path)  # the same start by another path
    in_process([*args, "--start", "start.json", "--samplers", "tpe", "--repetitions", 1], "experiments.py")
    again = json.loads(file.read_text())
    assert again["confirmed"] == whole["confirmed"] and best.read_text() == strategy
    assert sorted(map(json.dumps, again["rows"])) == sorted(map(json.dumps, whole["rows"]))
    assert sorted(tmp_path.glob("*.png")) == pictures


@pytest.fixture
def candidates(tiny, tmp_path):
    """Arguments that search p(r) with a launcher which, in place of training, copies the tiny pipeline."""
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import shutil, sys\n"
        f"shutil.copytree({str(tiny / 'pipeline')!r}, sys.argv[sys.argv.index('--output_dir') + 1] + '/pipeline')\n"
    )
    return ["--num-inference-steps", 4, "--confirm-images", 14, "--resolution", 28, "--start-alpha", 1, "--alphas", 1, 2,
            "--betas", 1, 2, "--launcher", f"{sys.executable} {launcher}", "--output", tmp_path, "--",
            "--train_data_dir", "tokens"]  # fmt: skip


@pytest.mark.parametrize("confirm_top", [0, 2])
def test_training_strategies_are_searched(candidates, tmp_path, in_process, confirm_top, capsys, idx_folder, figures):
    second = []
    if confirm_top:
        save_tiny_classifier(tmp_path / "second", seed=1)
        second = ["--second-feature-extractor", tmp_path / "second", "--second-reference", idx_folder]
    in_process([f"--confirm-top={confirm_top}", *second, *candidates], "search_training.py")
    found = json.loads((tmp_path / "training_strategy.json").read_text())
    assert all(("second_frechet_distance" in row["values"]) == bool(confirm_top) for row in found["candidates"])
    assert found["confirmed"] == bool(confirm_top) and found["num_images"] == (14 if confirm_top else 12)
    # All models are the same one, so that the start wins: itself and one neighbour along each parameter were tried.
    assert (found["alpha"], found["beta"]) == (1, 1) and len(found["candidates"]) == (confirm_top or 3)
    assert (tmp_path / "candidates.png").stat().st_size > 1000
    assert has_whiskers(figures[-1]) == bool(confirm_top)  # trials are measured without errors
    assert capsys.readouterr().out.startswith("Best p(r): Beta(1, 1), frechet_distance ")


def test_both_strategies_are_searched_in_turn(candidates, tmp_path, in_process, capsys, figures):
    args = ["--rounds=2", "--epsilon", -1, "--sampler", "random", "--num-trials", 2, "--confirm-top", 1, *candidates]
    in_process(args, "search_alternating.py")
    result = json.loads((tmp_path / "alternating.json").read_text())
    rounds = result["rounds"]
    assert all(row["fresh"] != row["after_training"] for row in rounds)  # of other images, by which nothing was chosen
    assert result["sampler"] == "random" and result["fresh_seed"] == result["confirm_seed"] + 1
    # Two trials of 12 images for the strategy, three for p(r), and what each confirms, two strategies and one p(r), of 14.
    assert rounds[0]["images"] == 5 * 12 + 3 * 14 and rounds[1]["images"] == 2 * rounds[0]["images"]
    first, second = (
        [trial.params for trial in trials_of(tmp_path / "search.journal", f"alternating-T4-round{number}-generation")]
        for number in (1, 2)
    )
    assert first[1] != second[1]  # each round draws anew
    assert [row["round"] for row in rounds] == [1, 2] and rounds[-1]["training"]["alpha"] == 1
    stored = NATScheduler.from_pretrained(tmp_path).get_strategy(4)
    assert stored == GenerationStrategy.from_dict(rounds[-1]["strategy"])
    for name in ("rounds.png", "schedules.png", "search.json"):
        assert (tmp_path / name).stat().st_size > 500
    assert has_whiskers(figures[0])
    card = (tmp_path / "README.md").read_text()
    assert (
        "p(r) = Beta(1, 1)" in card
        and "| round 2, after the search of training | " in card
        and "random | 4 of 12" in card
    )
    studies = trials_count(tmp_path)
    in_process(args, "search_alternating.py")  # everything is there already
    assert trials_count(tmp_path) == studies and "Round 2" in capsys.readouterr().out


def test_populations_are_searched_in_turn_where_nobody_says_and_then_for_a_bigger_model(
    tiny, candidates, tmp_path, in_process
):
    begin = ["--remasking-temperature", 9]  # where the pipeline has nothing stored
    args = ["--rounds=1", "--num-trials", 4, "--num-images", 30, "--confirm-top", 1, *begin, *candidates]
    in_process(["--rounds=1", "--final-pipeline", tiny / "pipeline", *args[1:]], "search_alternating.py")
    confirmed = trials_of(tmp_path / "search.journal", "alternating-T4-final-generation-confirm-14-1000003")
    assert {"start", "stored"} <= {trial.user_attrs["label"] for trial in confirmed}
    result = json.loads((tmp_path / "alternating.json").read_text())
    assert result["sampler"] == "population"
    # Four trials for the strategy and three for p(r), and what each confirms, the start too.
    assert result["rounds"][0]["images"] in (7 * 30 + 3 * 14, 7 * 30 + 2 * 14)


def test_both_strategies_are_searched_at_once(candidates, tmp_path, in_process):
    args = ["concurrent", "--num-trials", 3, "--confirm-top", 2, *candidates]
    in_process(args, "experiments.py")
    result = json.loads((tmp_path / "concurrent-T4.json").read_text())
    assert (
        result["trials"] == 3 and len(result["rows"]) == 2 and result["rows"][0]["training"]["distribution"] == "beta"
    )
    best, other = (row["value"] for row in result["rows"])
    assert best <= other and result["fresh_values"]["frechet_distance"] != best
    assert result["images"] == 3 * 12 + 2 * 14
    for name in ("concurrent-T4.png", "concurrent-T4-schedules.png", "concurrent-T4.csv"):
        assert (tmp_path / name).stat().st_size > 500


@pytest.mark.parametrize(
    ("transformer", "heuristic"),
    [([], "cosine"), (["--transformer", "enat"], "enat"), (["--transformer=uvit"], "cosine")],
)
def test_training_strategies_are_ranked(candidates, tmp_path, in_process, figures, transformer, heuristic):
    in_process(["training", *candidates, *transformer], "experiments.py")
    result = json.loads((tmp_path / "training-strategies-T4.json").read_text())
    assert result["strategy"] == json.loads(json.dumps(getattr(GenerationStrategy, heuristic)(4).to_dict()))
    rows = result["rows"]
    assert len(rows) == 6 and {"arccos", "fixed 0.8", "Beta(2, 1)"} < {row["label"] for row in rows}
    assert all(row["values"]["frechet_distance"] == row["value"] for row in rows)
    assert has_whiskers(figures[-1])


def test_heuristics_are_tuned_on_a_grid(tiny, tmp_path, in_process):
    args = ["baseline", tiny / "pipeline", "--lambdas", 1, 2, "--ks", 1, "--confirm-images", 14, "--output", tmp_path]
    in_process(args, "experiments.py")
    result = json.loads((tmp_path / "baseline-T4.json").read_text())
    values = [row["value"] for row in result["grid"]]
    assert len(values) == 2 and values == sorted(values) and result["tuned"] == result["confirmed"][0]["label"]


def trials_count(folder):
    import optuna

    return len(optuna.get_all_study_names(open_storage(folder / "search.journal")))


@pytest.fixture
def in_process(tiny, monkeypatch):
    """Run a script in this process: starting Python takes longer than everything the script does."""
    import runpy

    import optuna

    def call(args, script="search_generation.py"):
        words = command(script, tiny, *args)[1:]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.syspath_prepend(SCRIPTS)  # as Python does for a script
        monkeypatch.delitem(
            sys.modules, "arguments", raising=False
        )  # other folders' scripts may have such a neighbour
        previous = signal.getsignal(signal.SIGTERM)
        verbosity = optuna.logging.get_verbosity()
        try:
            runpy.run_path(words[0], run_name="__main__")
        finally:
            sys.modules.pop("arguments", None)
            signal.signal(signal.SIGTERM, previous)
            optuna.logging.set_verbosity(verbosity)

    return call


def test_another_order_is_searched_in_its_own_schedules(tiny, tmp_path):
    pipe = AutoNATPipeline.from_pretrained(tiny / "pipeline")
    pipe.scheduler = EntropyBoundedScheduler(pipe.scheduler.config.mask_token_id)
    pipe.save_pretrained(tmp_path / "pipeline")
    args = [tmp_path / "pipeline", "--num-inference-steps", 3, "--sampler", "tpe", "--num-trials", 2, "--confirm-top", 0,
            "--free", "entropy_bounds", "--output", tmp_path / "out", "--force", "--write-to-pipeline"]  # fmt: skip
    subprocess.run(command("search_generation.py", tiny, *args), env=ENVIRONMENT, check=True, capture_output=True)
    found = read_strategy(str(tmp_path / "out" / "strategy-T3.json"))
    assert isinstance(found, EntropyStrategy)
    loaded = AutoNATPipeline.from_pretrained(tmp_path / "pipeline")
    assert type(loaded.scheduler) is EntropyBoundedScheduler and loaded.scheduler.stored_strategies == {3: found}
    of_other = command("search_generation.py", tiny, tiny / "pipeline", *args[1:-1])
    refused = subprocess.run(of_other, env=ENVIRONMENT, capture_output=True, text=True)
    assert refused.returncode == 2 and "holds strategies of EntropyBoundedScheduler" in refused.stderr
