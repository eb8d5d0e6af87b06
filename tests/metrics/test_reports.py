"""Reports as files: those of today's and of earlier code."""

import json
from pathlib import Path

import pytest

from diffusers_autonat.metrics import Report
from diffusers_autonat.metrics.comparison import compare_reports, format_comparison


ROOT = Path(__file__).parents[2]
SHIPPED = [
    path
    for path in [*ROOT.glob("model_cards/*/evaluation/*.json"), ROOT / "search" / "results" / "floor.json"]
    if "values" in json.loads(path.read_text())
]


def load(name):
    return Report.load(ROOT / "model_cards" / "autonat-fashion-mnist" / "evaluation" / f"{name}.json")


def test_the_shipped_reports_are_found():
    assert len(SHIPPED) >= 9 and all(
        (ROOT / "model_cards" / name).is_dir() for name in {p.parts[-3] for p in SHIPPED[:-1]}
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_shipped_reports_load_and_are_written_as_they_were(path, tmp_path):
    report = Report.load(path)
    report.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()
    assert (report.values.get("frechet_distance") or report.values["r_precision"]) > 0 and report.pipeline[
        "transformer"
    ] in str(report)
    assert compare_reports(report, report) == ([], [])


def test_shipped_reports_are_of_the_shipped_reference():
    references = {
        ("fashion-mnist" in path.parts[-3], report.reference["hash"])
        for path in SHIPPED
        if "model_cards" in path.parts and (report := Report.load(path)).reference
    }
    assert references == {(True, "a7b174adaa69627d"), (False, "c9957e9f95b79475")}


def test_reports_without_warnings_load(tmp_path):
    data = json.loads(SHIPPED[0].read_text())
    del data["warnings"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    assert Report.load(tmp_path / "old.json") == Report.load(SHIPPED[0])


def test_identity_is_what_the_values_depend_on():
    report = load("T4")
    identity = report.identity()
    assert identity["images.num_inference_steps"] == 4 and identity["reference.hash"] == "a7b174adaa69627d"
    assert not [key for key in identity if key.startswith(("values.", "run.", "warnings"))]
    report.images["strategy"] = {"mask_ratios": (0.5, 0.0)}  # as before it was written
    assert report.identity()["images.strategy"] == {"mask_ratios": [0.5, 0.0]}


def test_generated_beside_reconstructed():
    text = format_comparison(load("T4"), load("reconstructions"), ("A", "B"))
    assert text.startswith("A and B are comparable.") and "differs: images.kind: generated | reconstructed" in text


def test_a_value_that_is_not_known_depends_on_everything():
    first, second = load("T4"), load("T4")
    first.values = second.values = {"of_a_later_version": 1.0}
    second.images = {**second.images, "num_images": 7}
    second.reference = {**second.reference, "hash": "other"}
    reasons = " ".join(compare_reports(first, second)[0])
    assert "another reference set" in reasons and "number of images" in reasons
    first.values = {"another": 1.0}
    assert compare_reports(first, second) == (["they have no value in common: another; of_a_later_version"], [])
