import errno
import json
import os
import resource

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessorPil

from diffusers_autonat.metrics import (
    FrechetDistance,
    Reference,
    compute_reference,
    load_extractor,
    load_reference,
    save_reference,
)


TINY = {"num_channels": 1, "embedding_size": 4, "depths": [1, 1], "groups_width": 2, "num_labels": 10}


def tiny_extractor(folder, seed=0, width=6, mean=0.5):
    torch.manual_seed(seed)
    RegNetForImageClassification(RegNetConfig(**TINY, hidden_sizes=[4, width])).save_pretrained(folder)
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[mean], image_std=[0.5])
    processor.save_pretrained(folder)
    return load_extractor(str(folder))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return tiny_extractor(tmp_path_factory.mktemp("models") / "judge")


@pytest.fixture(scope="module")
def data(request):
    with np.load(request.config.rootpath / "tests/fixtures/fashion_mnist_64.npz") as file:
        return file["images"], file["labels"].astype(int)


@pytest.fixture(scope="module")
def dataset(data):
    features = Features({"picture": datasets.Image(), "label": ClassLabel(num_classes=10)})
    pictures = [Image.fromarray(image) for image in data[0]]
    return Dataset.from_dict({"picture": pictures, "label": data[1].tolist()}, features=features)


@pytest.fixture(scope="module")
def reference(dataset, extractor):
    return load_reference(dataset, extractor, feature_rows=20)


def test_dataset_reference_is_what_the_features_say(reference, data, extractor):
    features = extractor(torch.from_numpy(data[0])[:, None])[0]
    torch.testing.assert_close(reference.mu, features.double().mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(reference.sigma, features.double().T.cov(), rtol=1e-4, atol=1e-8)
    assert reference.num_images == 64 and reference.labels.tolist() == data[1].tolist()
    assert torch.equal(reference.features, features[2 * torch.linspace(0, 31, 20).round().long()])
    assert reference.extractor["name"] == "judge"


def test_every_kind_of_source_gives_the_same_reference(reference, data, dataset, extractor, tmp_path):
    for i, (image, label) in enumerate(zip(*data)):
        folder = tmp_path / "folder" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    dataset.save_to_disk(tmp_path / "arrow")
    np.savez(tmp_path / "adm.npz", np.repeat(data[0][..., None], 3, axis=-1))

    from_folder = load_reference(tmp_path / "folder", extractor)
    assert from_folder.hash == load_reference(tmp_path / "arrow", extractor).hash == reference.hash
    assert load_reference(tmp_path / "adm.npz", extractor).hash == reference.hash
    assert from_folder.labels.bincount().tolist() == reference.labels.bincount().tolist()
    assert from_folder.source == str(tmp_path / "folder")


def test_saved_reference_comes_back_whole(reference, extractor, tmp_path):
    save_reference(reference, tmp_path / "reference.npz")
    loaded = load_reference(tmp_path / "reference.npz", extractor)
    assert loaded.hash == reference.hash and loaded.extractor == reference.extractor
    for key in ("mu", "sigma", "features", "labels"):
        assert torch.equal(getattr(loaded, key), getattr(reference, key))
    assert loaded.num_images == 64 and loaded.source == f"{tmp_path}/reference.npz (dataset in memory)"
    save_reference(reference, tmp_path / "new" / "folder.npz")
    assert load_reference(tmp_path / "new" / "folder.npz", extractor).hash == reference.hash
    with np.load(tmp_path / "reference.npz", allow_pickle=False) as file:  # as pytorch-fid reads it
        assert file["mu"].shape == (6,) and file["sigma"].shape == (6, 6)
    with pytest.raises(ValueError, match="to an .npz file, not to"):
        save_reference(reference, tmp_path / "reference.pt")


def test_batch_size_does_not_matter(data, extractor, reference):
    samples = [(torch.from_numpy(image)[None], None) for image in data[0]]
    hashes = {compute_reference(samples, extractor, batch_size=n).hash for n in (1, 13, 64)}
    assert hashes == {reference.hash}


def test_features_of_many_images_are_spaced_evenly_without_keeping_all(data, extractor, monkeypatch):
    kept, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts, **kwargs: kept.append(cat(parts, **kwargs)) or kept[-1])
    samples = ((torch.from_numpy(data[0][i % 64])[None], None) for i in range(640))
    reference = compute_reference(samples, extractor, feature_rows=5, batch_size=1)
    assert max(len(rows) for rows in kept if rows.shape[1:] == (6,)) <= 11
    monkeypatch.undo()
    every_128th = extractor(torch.from_numpy(data[0])[:1, None])[0]  # of 64 images that repeat
    assert torch.equal(reference.features, every_128th.expand(5, -1))


def test_images_of_many_sizes_and_modes(extractor, tmp_path):
    for i, mode in enumerate(("L", "RGB", "RGBA", "P", "LA", "1")):
        Image.new("RGB", (20 + 5 * i, 30), (10 * i, 40, 90)).convert(mode).save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match="20 x 30 pixels, measured as they are.*--resolution"):
        reference = load_reference(tmp_path, extractor, feature_rows=100)
    assert reference.num_images == 6 and reference.features.shape == (6, 6) and reference.labels is None
    assert not list(tmp_path.glob("*.npz"))


def test_images_are_cropped_as_for_training(extractor, dataset, tmp_path):
    """Folder and dataset; a photo's margins count for nothing, and the file remembers the resolution."""
    (tmp_path / "wide").mkdir()
    wide = []
    for i, row in enumerate(dataset.select(range(12))):
        wide.append(Image.new("L", (68, 28), 255 * (i % 2)))
        wide[-1].paste(row["picture"], (20, 0))
        wide[-1].save(tmp_path / "wide" / f"{i:02d}.png")
    expected = load_reference(dataset.select(range(12)), extractor)
    cropped = load_reference(tmp_path / "wide", extractor, resolution=28)
    assert cropped.hash == expected.hash and cropped.resolution == 28 and expected.resolution is None
    features = Features({"picture": datasets.Image()})
    assert (
        load_reference(Dataset.from_dict({"picture": wide}, features), extractor, resolution=28).hash == expected.hash
    )
    with pytest.warns(UserWarning, match="68 x 28 pixels"):
        assert load_reference(tmp_path / "wide", extractor).hash != expected.hash
    save_reference(cropped, tmp_path / "cropped.npz")
    loaded = load_reference(tmp_path / "cropped.npz", extractor)
    assert loaded.resolution == 28 and not loaded.extractor_assumed


def test_another_extractor_is_refused(reference, tmp_path):
    path = tmp_path / "reference.npz"
    save_reference(reference, path)
    wider, trained_again, brighter = (
        tiny_extractor(tmp_path / name, **kwargs)
        for name, kwargs in {"wider": {"width": 8}, "again": {"seed": 1}, "brighter": {"mean": 0.4}}.items()
    )
    with pytest.raises(ValueError, match="has 6 features, wider gives 8"):
        load_reference(path, wider)
    with pytest.raises(ValueError, match="was made by judge .weights_hash"):
        load_reference(path, trained_again)
    with pytest.raises(ValueError, match="was made by judge .preprocessing"):
        load_reference(path, brighter)


def test_files_without_provenance_belong_to_the_standard_network(reference, data, extractor, tmp_path):
    statistics = {"mu": reference.mu.numpy(), "sigma": reference.sigma.numpy()}
    np.savez(tmp_path / "pytorch_fid.npz", **statistics)
    other = {"mu": statistics["mu"] + 1, "sigma": statistics["sigma"]}
    pictures = np.repeat(data[0][..., None], 3, axis=-1)
    np.savez(tmp_path / "adm.npz", arr_0=pictures, mu_s=np.zeros(3), sigma_s=np.eye(3), **other)

    with pytest.raises(ValueError, match="counts as made by the standard Inception network, not by judge"):
        load_reference(tmp_path / "pytorch_fid.npz", extractor)
    # The statistics of another network are passed over, the images are measured.
    assert load_reference(tmp_path / "adm.npz", extractor).hash == reference.hash

    extractor.is_standard_inception = True
    try:
        standard = load_reference(tmp_path / "pytorch_fid.npz", extractor)
        assert standard.hash == reference.hash and standard.is_standard_inception and standard.extractor_assumed
        save_reference(standard, tmp_path / "copy.npz")
        assert load_reference(tmp_path / "copy.npz", extractor).extractor_assumed
        assert FrechetDistance(standard).label == "fid"
        adm = load_reference(tmp_path / "adm.npz", extractor, feature_rows=30)
        assert torch.equal(adm.mu, reference.mu + 1) and adm.features.shape == (30, 6)
    finally:
        extractor.is_standard_inception = False


def test_images_of_an_archive_are_read_one_after_another(reference, data, extractor, tmp_path, monkeypatch):
    """Those of ADM's ImageNet reference take gigabytes."""
    pictures = np.repeat(data[0][..., None], 3, axis=-1)
    np.savez(tmp_path / "plain.npz", pictures)
    np.savez_compressed(tmp_path / "grey.npz", arr_0=data[0][..., None])
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("read whole"))
    for name in ("plain.npz", "grey.npz"):
        loaded = load_reference(tmp_path / name, extractor, feature_rows=20)
        assert loaded.hash == reference.hash and torch.equal(loaded.features, reference.features)


def test_broken_files_are_named(extractor, data, tmp_path):
    def broken(name, message):
        with pytest.raises(ValueError) as error:
            load_reference(tmp_path / name, extractor)
        assert name in str(error.value) and message in str(error.value) and "\n" not in str(error.value)

    (tmp_path / "no_zip.npz").write_text("hello")
    (tmp_path / "nothing.npz").touch()
    np.savez(tmp_path / "objects.npz", mu=np.array([{}], dtype=object), sigma=np.eye(6))
    np.savez(tmp_path / "number.npz", mu=np.float64(3), sigma=np.eye(6))
    np.savez(tmp_path / "words.npz", mu=np.zeros(6), sigma=np.eye(6), provenance="words")
    for name, message in (("no_zip", "not a zip"), ("nothing", "not a zip"), ("objects", "Object arrays"),
                          ("number", "must be finite, [D] and [D, D]"), ("words", "Expecting value")):  # fmt: skip
        broken(f"{name}.npz", message)
    for name, images in (
        ("floats", data[0][..., None] / 255),
        ("channels_first", data[0][:, None]),
        ("flat", data[0]),
    ):
        np.savez(tmp_path / f"{name}.npz", arr_0=images)
        broken(f"{name}.npz", "arr_0 must be images, uint8 [N, H, W, 1 or 3], not ")
    np.savez(tmp_path / "whole.npz", arr_0=data[0][..., None])
    content = (tmp_path / "whole.npz").read_bytes()
    flipped = bytes([content[len(content) // 2] ^ 1])
    (tmp_path / "flipped.npz").write_bytes(content[: len(content) // 2] + flipped + content[len(content) // 2 + 1 :])
    broken("flipped.npz", "Bad CRC")
    for name, index in (("one", 1), ("truncated", 2)):
        (tmp_path / name).mkdir()
        for i in range(index):
            Image.fromarray(data[0][i]).save(tmp_path / name / f"{i}.png")
    broken("one", "holds one image: a reference needs at least 2")
    path = tmp_path / "truncated" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    broken("truncated", "1.png cannot be read")


def test_sources_that_lead_nowhere(extractor, tmp_path):
    DatasetDict(test=Dataset.from_dict({"text": ["a"]})).save_to_disk(tmp_path / "splits")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "absent.npz", "no reference"),
        (tmp_path / "other.npz", "holds weights; a reference needs mu and sigma"),
        (tmp_path / "empty", "holds no images"),
        (tmp_path / "splits", r"splits holds several splits \(test\): name the folder of one"),
        ("fashion_mnist", "as in `fashion_mnist:test`"),
        (Dataset.from_dict({"text": ["a"]}), "no image column, only text"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reference(source, extractor)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"mu \[3\] and sigma \[2, 2\] must be finite"):
        Reference(torch.zeros(3), torch.eye(2))
    with pytest.raises(ValueError, match="must be finite"):
        Reference(torch.tensor([torch.nan]), torch.eye(1))
    for key, value in (("features", torch.zeros(3, 2)), ("features", torch.full((3, 1), torch.nan)),
                       ("labels", torch.zeros(3)), ("labels", torch.tensor([0, -1]))):  # fmt: skip
        with pytest.raises(ValueError, match=rf"memory: {key} \[.* must be"):
            Reference(torch.zeros(1), torch.eye(1), num_images=2, **{key: value})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mu": np.array(["a"] * 6)}, "mu is of type <U1"),
        ({"mu": np.zeros(6, complex)}, "mu is of type complex128"),
        ({"labels": np.zeros(64)}, "labels is of type float64"),
        ({"labels": np.zeros(3, int)}, r"labels \[3\] must be classes, \[64\]"),
        ({"features": np.zeros((3, 7))}, r"features \[3, 7\] must be finite, \[M, 6\]"),
        ({"provenance": "[]"}, "its provenance is \\[\\]"),
        ({"provenance": '{"num_images": "64"}'}, "its num_images is '64'"),
        ({"provenance": '{"extractor": {"name": "judge"}}'}, "its extractor is {'name'"),
        ({"provenance": "[" * 50_000}, "recursion"),
    ],
)
def test_files_with_impossible_contents(reference, extractor, tmp_path, change, message):
    save_reference(reference, tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as file:
        np.savez(tmp_path / "changed.npz", **{**file, **change})
    with pytest.raises(ValueError, match=f"changed.npz.*{message}") as error:
        load_reference(tmp_path / "changed.npz", extractor)
    assert "\n" not in str(error.value)


def test_numbers_of_other_widths_are_read(reference, extractor, tmp_path):
    identity = json.dumps({"extractor": extractor.identity()})
    np.savez(tmp_path / "x.npz", mu=reference.mu.numpy().astype(">f8"), sigma=reference.sigma.numpy(),
             labels=np.zeros(64, np.uint8), provenance=identity)  # fmt: skip
    loaded = load_reference(tmp_path / "x.npz", extractor)
    assert loaded.hash == reference.hash and loaded.labels.dtype == torch.int64


def test_a_pipe_is_no_reference(extractor, tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="pipe.npz is no file"):
        load_reference(tmp_path / "pipe.npz", extractor)


def test_a_full_disk_leaves_the_earlier_reference(reference, extractor, tmp_path):
    save_reference(reference, tmp_path / "reference.npz")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*reference.npz'") as error:
            save_reference(reference, tmp_path / "reference.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.errno == errno.EFBIG and [path.name for path in tmp_path.iterdir()] == ["reference.npz"]
    assert load_reference(tmp_path / "reference.npz", extractor).hash == reference.hash
