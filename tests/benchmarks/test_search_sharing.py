"""The script that says what trials share: fewer passes, the same values."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import save_tiny_study


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_differences_share_passes_and_not_values(monkeypatch, tmp_path, fashion_mnist, capsys):
    save_tiny_study(tmp_path, fashion_mnist[0])
    words = ["search_sharing.py", tmp_path / "pipeline", "--judge", tmp_path / "judge", "--reference", tmp_path / "reference.npz",
             "--num-inference-steps", 3, "--remasking-temperature", 2, "--guidance-scale", 1, "--num-images", 32,
             "--output", tmp_path / "sharing.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    for _ in range(2):  # the second time all is there
        runpy.run_path(str(BENCHMARKS / "search_sharing.py"), run_name="__main__")
    values = json.loads((tmp_path / "sharing.json").read_text())["values"]["3"]
    assert len(values) == 2 * (2 + 3 + 2 + 3) and len({one["value"] for one in values.values()}) > 5
    assert all(one["value"] == pytest.approx(one["whole_value"], abs=1e-6) for one in values.values())
    assert (
        values["remasking_temperatures.1 +"]["passes"] <= 32 * 2 < values["remasking_temperatures.1 +"]["whole_passes"]
    )
    share = sum(one["passes"] for one in values.values()) / sum(one["whole_passes"] for one in values.values())
    assert f" {share:.2f} " in capsys.readouterr().out.splitlines()[-1]
