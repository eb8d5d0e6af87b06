"""The benchmarks' clock, and the benchmark of pipelines that is built on it."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_pipeline


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import timing

    return timing


def test_candidates_take_turns_there_and_back(timing):
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}
    taken = timing.interleaved(candidates, rounds=2, warm_up=1)
    assert "".join(calls) == "abc" + "cba" + "abc"
    assert list(taken) == ["a", "b", "c"] and all(len(values) == 2 for values in taken.values())


def test_warm_up_does_not_count_and_the_clock_is_chosen(timing):
    now = 0

    def run():
        nonlocal now
        now += 100 if now == 0 else 1

    assert timing.interleaved({"run": run}, rounds=3, clock=lambda: now) == {"run": [1, 1, 1]}
    assert timing.seconds(run, clock=lambda: now) == 1


def test_rounds_go_on_where_they_were(timing):
    calls = []
    measures = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert list(timing.in_turn(measures, rounds=3, first=1)) == [{"a": 2, "b": 1}, {"a": 3, "b": 4}]


def test_median_and_spread(timing):
    assert timing.median_and_spread([4.0, 1.0, 2.0]) == (2.0, 1.5)


def test_pipelines(timing, tmp_path, monkeypatch):
    for name in ("one", "two"):
        tiny_pipeline().save_pretrained(tmp_path / name)
    output = tmp_path / "pipelines.json"
    arguments = [
        tmp_path / "one",
        tmp_path / "two",
        "--steps",
        4,
        "--batch-sizes",
        2,
        "--rounds",
        3,
        "--output",
        output,
    ]
    monkeypatch.setattr(sys, "argv", ["pipelines.py", *map(str, arguments)])
    runpy.run_path(str(BENCHMARKS / "pipelines.py"), run_name="__main__")
    rows = json.loads(output.read_text())["rows"]
    assert [(row["pipeline"], row["steps"], row["batch_size"]) for row in rows] == [("one", 4, 2), ("two", 4, 2)]
    for row in rows:
        assert len(row["rounds"]) == 3 and sorted(row["rounds"])[1] == row["images_per_second"] and row["macs"] > 0


def test_results_tell_their_command_machine_and_versions(timing, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/benchmarks/growth.py", "--axes", "a b"])
    made = timing.made_with("optuna", "no-such-package")
    assert made["command"] == "python benchmarks/growth.py --axes 'a b'"
    assert made["hardware"] and list(made["versions"]) == ["python", "torch", "diffusers", "optuna"]


def test_a_record_is_compared_but_for_its_command_and_its_results(timing):
    earlier = {"command": "a", "seed": 0, "sizes": [1, 2], "values": {"0": 1}}
    assert timing.differences(earlier, {"command": "b", "seed": 0, "sizes": (1, 2), "values": {}}, ("values",)) == []
    assert timing.differences(earlier, {"command": "a", "seed": 1, "sizes": [1, 2], "pipeline": "x"}) == [
        "seed",
        "pipeline",
    ]
