import errno
import gzip
import shutil
import struct

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from diffusers_autonat.image_datasets import (
    FASHION_MNIST_CLASSES,
    ImageTransform,
    ReadableImages,
    label_names,
    load_images,
    read_idx,
)
from diffusers_autonat.images import image_to_array
from tests.bad_images import write_bad_files
from tests.conftest import write_idx


def test_idx_files(idx_folder, fashion_mnist):
    dataset = load_images(train_data_dir=str(idx_folder))
    images, labels = fashion_mnist
    assert len(dataset) == 64 and dataset["label"] == labels.tolist()
    assert np.array_equal(np.asarray(dataset[3]["image"]), images[3])
    assert label_names(dataset, "label") == FASHION_MNIST_CLASSES
    assert len(load_images(train_data_dir=str(idx_folder), max_samples=5)) == 5


def test_image_folder_gives_the_same_rows(image_folder, fashion_mnist):
    dataset = load_images(train_data_dir=str(image_folder))
    assert len(dataset) == 64 and len(set(dataset["label"])) == len(set(fashion_mnist[1].tolist()))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({}, "either --dataset_name or --train_data_dir"),
        ({"train_data_dir": "/nonexistent"}, "/nonexistent is not a folder"),
        ({"image_column": "picture"}, "no column 'picture'.*--image_column"),
        ({"label_column": "class"}, "no column 'class'"),
    ],
)
def test_bad_sources(image_folder, kwargs, message):
    if "column" in "".join(kwargs):
        kwargs["train_data_dir"] = str(image_folder)
    with pytest.raises(ValueError, match=message):
        load_images(**kwargs)


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no train images found"):
        load_images(train_data_dir=str(tmp_path))


def test_broken_idx_files(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01" + struct.pack(">I", 10) + b"123"))
    with pytest.raises(ValueError, match="truncated: 3 values instead of 10"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"PNG?"))
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(path)


def test_transparent_images_are_shown_on_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (image_to_array(clear, 8, 3) == 255).all()
    assert (image_to_array(Image.new("LA", (8, 8), (0, 255)), 8, 1) == 0).all()


def test_the_centre_is_cropped_after_the_shorter_side_is_resized():
    wide = Image.fromarray(np.repeat(np.uint8([[0] * 10 + [255] * 10 + [0] * 10]), 10, axis=0))
    assert (image_to_array(wide, 10, 1) == 255).all()
    assert image_to_array(wide, 20, 3).shape == (3, 20, 20)


def test_transform():
    dataset = Dataset.from_dict({"image": [Image.new("L", (28, 28), 255)], "label": [1]})
    dataset.set_transform(ImageTransform(28, 1, "image", "label"))
    row = dataset[0]
    assert row["pixel_values"].shape == (1, 28, 28) and row["pixel_values"].max() == 1 and row["labels"] == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_training_passes_over_what_cannot_be_read(image_folder, tmp_path, workers):
    shutil.copytree(image_folder, tmp_path / "images")
    names = write_bad_files(tmp_path / "images" / "class-0")
    dataset = load_images(train_data_dir=str(tmp_path / "images"))
    bad = len(dataset) - 64  # pipes and dead links are no files to `datasets` either
    assert len(names) - 2 <= bad <= len(names)
    images = ReadableImages(dataset, ImageTransform(28, 1, "image", "label"))
    if workers == 0:
        with pytest.warns(UserWarning, match="bomb.png cannot be read .*: the next image is taken instead"):
            rows = [images[i] for i in range(len(images))]
        assert images.unreadable.num_unreadable == bad
    batches = list(DataLoader(images, 7, num_workers=workers))
    assert sum(len(batch["labels"]) for batch in batches) == 64 + bad
    if workers == 0:
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches])[5], rows[5]["pixel_values"])


def test_where_nothing_can_be_read_training_ends(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        write_bad_files(tmp_path / label)
    images = ReadableImages(load_images(train_data_dir=str(tmp_path)), ImageTransform(28, 1, "image", "label"))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="of the training images cannot be read, e.g. "):
        images[0]


def test_training_sees_images_upright_and_of_any_depth(tmp_path):
    upright = np.zeros((8, 8), np.uint8)
    upright[:, 6:] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored as a camera held upright stores it
    Image.fromarray(np.rot90(upright)).save(tmp_path / "0.png", exif=exif)
    Image.fromarray(upright.astype(np.uint16) * 257).save(tmp_path / "1.png")
    Image.fromarray(upright.astype(np.float32) / 255).save(tmp_path / "2.tiff")
    dataset = load_images(train_data_dir=str(tmp_path), label_column=None)
    rows = ReadableImages(dataset, ImageTransform(8, 1, "image", None))
    for row in rows:
        assert np.array_equal(row["pixel_values"][0] * 255, upright)


def test_damaged_idx_files_are_named(idx_folder, tmp_path):
    shutil.copytree(idx_folder, tmp_path / "idx")
    path = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100] + bytes(50) + content[150:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is damaged .*: fetch it again"):
            load_images(train_data_dir=str(tmp_path / "idx"))
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(20)))  # promises more than memory holds
    with pytest.raises(ValueError, match="is truncated: 20 values instead of"):
        load_images(train_data_dir=str(tmp_path / "idx"))
    path.write_bytes(content)
    write_idx(tmp_path / "idx" / "train-labels-idx1-ubyte.gz", np.full(64, 10, np.uint8))
    with pytest.raises(ValueError, match="holds class 10; there are 10, from 0"):
        load_images(train_data_dir=str(tmp_path / "idx"))


def test_a_full_disk_under_the_cache_is_no_missing_image(image_folder, monkeypatch):
    def full(*args, **kwargs):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    monkeypatch.setattr("diffusers_autonat.image_datasets.load_dataset", full)
    with pytest.raises(OSError, match="No space left on device: '.*datasets") as error:
        load_images(train_data_dir=str(image_folder))
    assert error.value.errno == errno.ENOSPC
