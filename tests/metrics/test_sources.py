"""Sets of images by name, for references and for reconstructions."""

import shutil

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from diffusers_autonat.metrics.reconstructions import reconstruction
from diffusers_autonat.metrics.sources import archive_samples, find_columns, image_samples, open_dataset
from tests.bad_images import write_bad_files
from tests.conftest import tiny_pipeline


def test_the_same_images_by_every_name(idx_folder, image_folder, fashion_mnist, tmp_path):
    name, dataset = open_dataset(idx_folder)
    assert name == f"{idx_folder.name}:test" and find_columns(dataset) == ("image", "label")
    dataset.save_to_disk(tmp_path / "saved")
    for source, expected in (
        (str(idx_folder), name),
        (f"{idx_folder}:train", f"{idx_folder.name}:train"),
        (tmp_path / "saved", str(tmp_path / "saved")),
        (dataset, "dataset in memory"),
    ):
        found, samples = image_samples(source, None)
        images, labels = zip(*samples)
        assert found == expected and labels == tuple(fashion_mnist[1])
        assert np.array_equal(torch.cat(images).numpy(), fashion_mnist[0])
    found, samples = image_samples(str(image_folder), 14)
    images, labels = zip(*samples)
    assert found == str(image_folder) and images[0].shape == (1, 14, 14)
    assert np.array_equal(np.bincount(labels), np.bincount(fashion_mnist[1]))
    assert open_dataset(image_folder)[0] == image_folder.name and len(open_dataset(image_folder)[1]) == 64


def test_images_without_classes(fashion_mnist, tmp_path):
    (tmp_path / "flat").mkdir()
    for i in range(3):
        Image.fromarray(fashion_mnist[0][i]).save(tmp_path / "flat" / f"{i}.png")
    assert [label for _, label in image_samples(tmp_path / "flat", None)[1]] == [None] * 3
    assert find_columns(open_dataset(tmp_path / "flat")[1]) == ("image", None)


def test_names_that_lead_nowhere(tmp_path):
    DatasetDict(test=Dataset.from_dict({"text": ["a"]})).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"splits holds several splits \(test\): name the folder of one"):
        image_samples(tmp_path / "splits", None)
    with pytest.raises(ValueError, match="as in `fashion_mnist:test`"):
        open_dataset("fashion_mnist")
    with pytest.raises(ValueError, match="no image column, only text"):
        find_columns(Dataset.from_dict({"text": ["a"]}))


def test_bad_files_are_left_out_counted_and_named(image_folder, fashion_mnist, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    names = write_bad_files(folder / "class-0")
    (folder / "class-1" / "folder.png").mkdir()
    expected = list(image_samples(image_folder, None)[1])
    message = f"{len(names)} of {64 + len(names)} images of .* could not be read and are left out: .*avif.png"
    with pytest.warns(UserWarning, match=message):
        samples = list(image_samples(folder, None)[1])
    assert len(samples) == 64
    assert all(torch.equal(a, b) and i == j for (a, i), (b, j) in zip(samples, expected))
    _, dataset = open_dataset(folder)
    with pytest.warns(UserWarning, match="images of dataset in memory could not|images of imagefolder could not"):
        assert len(list(image_samples(dataset, None)[1])) == 64
    with pytest.warns(UserWarning, match="images of images could not be read"):
        _, make_images, requests = reconstruction(tiny_pipeline(), str(folder))
    assert len(requests) == 64
    with torch.no_grad():
        assert make_images(torch.arange(64), requests).shape == (64, 1, 28, 28)


def test_where_half_cannot_be_read_the_first_is_named(tmp_path):
    write_bad_files(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    for read in (
        lambda: list(image_samples(tmp_path, None)[1]),
        lambda: reconstruction(tiny_pipeline(), str(tmp_path)),
    ):
        with pytest.raises(
            ValueError, match=r"\d of \d+ images of .* cannot be read, e.g. .*/avif.png .*: replace them"
        ):
            read()


def test_every_path_sees_the_same_pixels(tmp_path, fashion_mnist):
    """Turned by EXIF, 16 bit and float: references and reconstructions read as training does."""
    image = fashion_mnist[0][0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(image)).save(tmp_path / "0.png", exif=exif)
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "1.png")
    Image.fromarray(image.astype(np.float32) / 255).save(tmp_path / "2.tiff")
    for source in (tmp_path, open_dataset(tmp_path)[1]):
        for pixels, _ in image_samples(source, None)[1]:
            assert np.array_equal(pixels[0], image)
    _, make_images, requests = reconstruction(tiny_pipeline(), str(tmp_path))
    with torch.no_grad():
        made = make_images(torch.arange(3), requests)
    assert (made - made[0]).abs().max() < 1 / 255  # products round differently at other places of a batch


def test_damaged_data_sets_and_archives_are_named(tmp_path, fashion_mnist):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "dataset_dict.json").write_text("{")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").write_text("{}")
    for name in ("splits", "saved"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a data set .*: make it again") as error:
            open_dataset(tmp_path / name)
        assert "\n" not in str(error.value)
    images = fashion_mnist[0][..., None]
    np.savez(tmp_path / "whole.npz", arr_0=images)
    content = (tmp_path / "whole.npz").read_bytes()
    more = content.replace(b"(64, 28, 28, 1)", b"(99, 28, 28, 1)")
    (tmp_path / "more.npz").write_bytes(more)
    with pytest.raises(ValueError, match=r"more.npz cannot be read as images .arr_0 has 50176 bytes, and \[99, "):
        list(archive_samples(tmp_path / "more.npz"))


def test_reconstructions_are_asked_for_by_their_captions_and_the_classes_that_are_wanted(tmp_path, fashion_mnist):
    features = Features({"image": ImageFeature(), "kind": ClassLabel(names=["a", "b"]), "caption": Value("string"),
                         "style": ClassLabel(names=["flat", "soft"])})  # fmt: skip
    images = [Image.fromarray(image) for image in fashion_mnist[0][:3]]
    rows = {"image": images, "kind": [0, 0, 1], "caption": ["x", "y", "z"], "style": [1, 0, 1]}
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    for names, labels in ((["flat", "soft"], [1, 0, 1]), (["a", "b"], [0, 0, 1]), (None, [0, 0, 1])):
        _, _, requests = reconstruction(tiny_pipeline(), str(tmp_path / "saved"), names)
        assert requests.arguments == {"prompt": ["x", "y", "z"]} and requests.class_labels.tolist() == labels
