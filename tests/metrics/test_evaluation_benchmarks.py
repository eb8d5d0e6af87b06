"""The benchmarks of evaluation run, go on after a kill, and generate nothing twice."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from diffusers_autonat import AutoNATPipeline
from tests.conftest import save_tiny_study


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def place(tmp_path_factory, fashion_mnist):
    """A folder with `pipeline`, `judge` and `reference.npz`."""
    folder = tmp_path_factory.mktemp("benchmarks")
    save_tiny_study(folder, fashion_mnist[0])
    return folder


@pytest.fixture
def run(place, monkeypatch):
    """Run a benchmark in this process, stopping it after so many calls of the pipeline; returns the number of calls."""

    def run(name, *arguments, stop_at=None):
        calls, call = 0, AutoNATPipeline.__call__

        def counting(self, *args, **kwargs):
            nonlocal calls
            if calls == stop_at:
                raise KeyboardInterrupt
            calls += 1
            return call(self, *args, **kwargs)

        common = [
            "--judge",
            str(place / "judge"),
            "--reference",
            str(place / "reference.npz"),
            "--num-inference-steps",
            "4",
        ]
        with monkeypatch.context() as patch:
            patch.setattr(AutoNATPipeline, "__call__", counting)
            patch.syspath_prepend(BENCHMARKS)
            patch.setattr(sys, "argv", [name, str(place / "pipeline"), *common, *map(str, arguments)])
            try:
                runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
            except KeyboardInterrupt:
                pass
        return calls

    return run


def test_noise(run, tmp_path, capsys):
    """Ten seeds in ten runs of the largest N, the smaller ones on the way; with a stop between as without."""
    counts = ["--num-images", 10, 40, 70]
    assert run("evaluation_noise.py", *counts, "--seeds", 10, "--output", tmp_path / "whole.json") == 10 * 3
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1:3] for line in table[2:5]] == [[f" {n} ", " 10 "] for n in (10, 40, 70)]
    assert not re.search(r"\bfid\b", (tmp_path / "whole.json").read_text().lower())

    stopped = [*counts, "--output", tmp_path / "stopped.json"]
    assert run("evaluation_noise.py", *stopped, "--seeds", 10, stop_at=7) == 7
    assert list(json.loads((tmp_path / "stopped.json").read_text())["values"]) == ["0", "1"]
    assert run("evaluation_noise.py", *stopped, "--seeds", 10) == 8 * 3
    whole, resumed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "stopped"))
    assert "whole.json" in whole.pop("command") and "stopped.json" in resumed.pop("command") and whole == resumed
    assert sorted(path.name for path in tmp_path.glob("stopped*")) == ["stopped.json", "stopped.md"]
    with pytest.raises(SystemExit):
        run("evaluation_noise.py", *stopped, "--seeds", 11, "--metrics", "fid")
    assert "with other --metrics" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("evaluation_noise.py", "--num-images", 10, "--seeds", 11, "--output", tmp_path / "stopped.json")
    assert "with other num_images" in capsys.readouterr().err


def test_speed(run, tmp_path, capsys):
    output = ["--num-images", 64, "--output", tmp_path / "new" / "speed.json"]
    assert run("evaluation_speed.py", *output, "--rounds", 3, stop_at=1 + 4 + 1) == 6
    assert len(json.loads((tmp_path / "new" / "speed.json").read_text())["rounds"]) == 1
    assert run("evaluation_speed.py", *output, "--rounds", 3) == 1 + 2 * 4
    result = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert len(result["rounds"]) == len(result["ratios"]) == 3
    assert result["median_ratio"] == sorted(result["ratios"])[1] and "median of 3 rounds" in capsys.readouterr().out
    assert result["values"] == ["class_consistency", "frechet_distance"]
    with pytest.raises(SystemExit):
        run("evaluation_speed.py", *output, "--num-images", 32)
    assert "with other num_images" in capsys.readouterr().err
