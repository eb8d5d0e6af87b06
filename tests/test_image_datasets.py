import gzip
import struct

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from diffusers_autonat.image_datasets import (
    FASHION_MNIST_CLASSES,
    ImageTransform,
    label_names,
    load_images,
    read_idx,
)
from diffusers_autonat.images import image_to_array


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
