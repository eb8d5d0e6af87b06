"""`diffusers-autonat compare`, on a report of a tiny pipeline."""

import json

import pytest

from diffusers_autonat.cli import main
from diffusers_autonat.metrics import Report
from diffusers_autonat.metrics.comparison import compare_reports
from tests.conftest import save_tiny_classifier, tiny_pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory, idx_folder):
    """A folder with `reference.npz` and `expected.json`, a report with all values."""
    folder = tmp_path_factory.mktemp("compare")
    tiny_pipeline().save_pretrained(folder / "pipeline")
    save_tiny_classifier(folder / "judge")
    extractor = ["--feature-extractor", str(folder / "judge")]
    main(["reference", str(idx_folder), *extractor, "--feature-rows", "40", "--output", str(folder / "reference.npz")])
    main(["evaluate", str(folder / "pipeline"), *extractor, "--metrics", "fid,kid,is,prdc,class", "--num-images", "40",
          "--reference", str(folder / "reference.npz"), "--num-inference-steps", "4",
          "--output", str(folder / "expected.json")])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def report(place):
    return json.loads((place / "expected.json").read_text())


def test_comparing(place, report, tmp_path, capsys):
    def variant(name, section, **changes):
        other = json.loads(json.dumps(report))
        other[section].update(changes)
        (tmp_path / name).write_text(json.dumps(other))
        return str(tmp_path / name)

    base = str(place / "expected.json")
    better = variant("strategy.json", "values", frechet_distance=report["values"]["frechet_distance"] - 0.125)
    main(["compare", base, better])
    out = capsys.readouterr().out
    assert "are comparable" in out and "difference -0.1250" in out and "differs" not in out
    main(["compare", base, variant("seed.json", "images", seed=1, num_inference_steps=8)])
    out = capsys.readouterr().out
    assert "are comparable" in out and "other draws" in out and "num_inference_steps: 4 | 8" in out
    for name, section, change, reason in [
        ("n.json", "images", {"num_images": 50}, "number of images (images.num_images: 40 | 50)"),
        ("r.json", "reference", {"hash": "ab"}, "another reference set"),
        ("e.json", "extractor", {"weights_hash": "cd"}, "another network"),
        ("l.json", "images", {"label_policy": "uniform"}, "other classes"),
        ("f.json", "reference", {"feature_rows": 7}, "other rows of the reference"),
    ]:
        with pytest.raises(SystemExit) as error:
            main(["compare", base, variant(name, section, **change)])
        out = capsys.readouterr().out
        assert error.value.code == 1 and "not comparable" in out and reason in out and "difference" not in out
    # A second extractor matters where both have its values.
    twice = {**report, "second_extractor": {"weights_hash": "ef"}, "second_reference": {"hash": "gh"}}
    twice["values"] = report["values"] | {"second_frechet_distance": 1.0}
    other = json.loads(json.dumps(twice)) | {"second_extractor": {"weights_hash": "ij"}}
    assert not compare_reports(Report(**report), Report(**twice))[0]
    [reason] = compare_reports(Report(**twice), Report(**other))[0]
    assert "another second network" in reason
    # Scores of the images alone have no reference; that of the classifier still depends on N.
    alone = {key: value for key, value in report["values"].items() if key.startswith(("class",))}
    for i, (images, code) in enumerate([({}, 0), ({"num_images": 50}, 1)]):
        other = json.loads(json.dumps(report)) | {"reference": None, "values": alone}
        other["images"].update(images)
        (tmp_path / f"alone{i}.json").write_text(json.dumps(other))
        assert bool(compare_reports(Report(**report), Report(**other))[0]) == bool(code)
    assumed = variant("assumed.json", "reference", extractor="assumed")
    main(["compare", base, assumed])
    assert "does not say who made it" in capsys.readouterr().out
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(SystemExit, match="is no report of `evaluate`: it has no values"):
        main(["compare", base, str(tmp_path / "broken.json")])
    sections = {"values": {"a": 1}, "images": {}, "pipeline": [], "extractor": 3, "reference": None, "run": {}}
    (tmp_path / "broken.json").write_text(json.dumps(sections))
    with pytest.raises(SystemExit, match="it has no pipeline, extractor"):
        main(["compare", str(tmp_path / "broken.json"), base])
    with pytest.raises(SystemExit, match="reference.npz is no JSON file"):
        main(["compare", base, str(place / "reference.npz")])
    newer = variant("newer.json", "run", versions={**report["run"]["versions"], "numpy": "9"})
    main(["compare", base, newer])
    assert "other versions of the software (run.versions: numpy)" in capsys.readouterr().out
