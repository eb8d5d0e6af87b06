"""`diffusers-autonat reference`: what it keeps, and what it refuses."""

import numpy as np
import pytest

from diffusers_autonat.cli import main
from diffusers_autonat.metrics import load_extractor, load_reference
from tests.conftest import save_tiny_classifier


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "judge"
    save_tiny_classifier(folder)
    return str(folder)


def test_every_kind_of_source_is_kept_as_it_is_read(judge, idx_folder, image_folder, tmp_path, capsys):
    extractor = load_extractor(judge)
    hashes = set()
    for i, source in enumerate((str(idx_folder), f"{idx_folder}:train", str(image_folder))):
        output = tmp_path / "new" / f"{i}.npz"
        main(["reference", source, "--feature-extractor", judge, "--output", str(output)])
        out = capsys.readouterr().out
        kept, expected = load_reference(output, extractor), load_reference(source, extractor)
        assert kept.hash == expected.hash and kept.features is None and kept.num_images == 64
        assert kept.extractor == extractor.identity() and kept.labels.tolist() == expected.labels.tolist()
        assert f"{expected.source}: 64 images, hash {kept.hash}\nsaved to {output}" in out
        hashes.add(kept.hash)
    assert len(hashes) == 1
    assert load_reference(tmp_path / "new" / "1.npz", extractor).source.endswith(f"({idx_folder.name}:train)")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_features_and_resolution_are_kept_where_they_are_asked_for(judge, idx_folder, tmp_path):
    output = tmp_path / "reference.npz"
    main(["reference", str(idx_folder), "--feature-extractor", judge, "--feature-rows", "20", "--resolution", "14",
          "--images-per-call", "16", "--output", str(output)])  # fmt: skip
    extractor = load_extractor(judge, batch_size=16)
    kept, expected = load_reference(output, extractor), load_reference(idx_folder, extractor, 20, resolution=14)
    assert np.array_equal(kept.features, expected.features) and kept.features.shape == (20, 6)
    assert kept.resolution == 14 and kept.hash == expected.hash and kept.extractor["batch_size"] == 16


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        (".", "reference.pt", "reference.pt: a reference is an .npz file"),
        (".", "/dev/null/reference.npz", "/dev/null/reference.npz cannot be written"),
        ("nowhere.npz", "x.npz", "There is no reference nowhere.npz"),
        ("nowhere", "x.npz", "nowhere is no file or folder of images; name a dataset .* as in `nowhere:test`"),
        (".", "x.npz", "holds no images"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(judge, tmp_path, monkeypatch, source, output, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as error:
        main(["reference", source, "--feature-extractor", judge, "--output", output])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_source_and_an_output_must_be_named(capsys):
    for arguments in ([], ["folder"], ["--output", "x.npz"]):
        with pytest.raises(SystemExit) as error:
            main(["reference", *arguments])
        assert error.value.code == 2 and "the following arguments are required" in capsys.readouterr().err
