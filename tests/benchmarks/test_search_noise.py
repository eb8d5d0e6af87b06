"""The script that says how certain a search's values are: the same gain, by values and by a population."""

import json
import runpy
import statistics
import sys
from pathlib import Path

import pytest

from tests.conftest import save_tiny_study


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_gains_of_several_seeds(monkeypatch, tmp_path, fashion_mnist, capsys):
    save_tiny_study(tmp_path, fashion_mnist[0])
    words = ["search_noise.py", tmp_path / "pipeline", "--judge", tmp_path / "judge", "--reference", tmp_path / "reference.npz",
             "--num-inference-steps", 4, "--remasking-temperature", 2, "--guidance-scale", 1, "--num-images", 32, 64,
             "--seeds", 3, "--output", tmp_path / "noise.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    for _ in range(2):  # the second time all is there
        runpy.run_path(str(BENCHMARKS / "search_noise.py"), run_name="__main__")
    result = json.loads((tmp_path / "noise.json").read_text())
    values = [seed["64"] for seed in result["values"].values()]
    assert len(values) == 3 and len({one["heuristic"] for one in values}) == 3
    assert [row["N"] for row in result["rows"]] == [32, 64]
    row = result["rows"][1]
    assert row["quarter"] == pytest.approx(statistics.mean(one["heuristic"] - one["quarter"] for one in values))
    assert row["quarter, population, deviation"] == pytest.approx(
        statistics.stdev(one["population"] for one in values)
    )
    # With other noise the same strategies differ by the noise of both.
    assert row["stored, other noise"] == pytest.approx(row["stored"])
    assert row["stored, other noise, deviation"] != row["stored, deviation"]
    assert capsys.readouterr().out.count("seed 2 of 3") == 1
