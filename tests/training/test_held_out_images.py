"""Images to test on: a split by its name, `test`, or a share that is held out."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from PIL import Image

from diffusers_autonat.image_datasets import num_channels_of
from diffusers_autonat.training.data import hold_out, images_of, train_and_test


def data_args(folder, **changes):
    usual = {"dataset_name": None, "train_data_dir": str(folder), "split": "train", "image_column": "image",
             "label_column": "label", "max_train_samples": None, "test_split": None, "test_share": 0.25, "seed": 0}  # fmt: skip
    return SimpleNamespace(**usual | changes)


def of_classes(*sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    rows = Dataset.from_dict({"label": labels, "row": list(range(len(labels)))})
    return rows.cast_column("label", ClassLabel(num_classes=len(sizes)))


def test_every_class_gives_its_share_and_keeps_one():
    train, test = hold_out(of_classes(40, 10, 2, 1), 0.2, seed=0, label_column="label")
    assert np.bincount(test["label"][:], minlength=4).tolist() == [8, 2, 1, 0]
    assert np.bincount(train["label"][:], minlength=4).tolist() == [32, 8, 1, 1]
    assert sorted(train["row"][:] + test["row"][:]) == list(range(53))
    assert test["row"][:8] != list(range(8))  # drawn, not the first ones


def test_the_seed_alone_decides_what_is_held_out():
    one, again, other = (hold_out(of_classes(40, 10), 0.2, seed, "label")[1]["row"][:] for seed in (0, 0, 1))
    assert one == again != other
    assert len(hold_out(of_classes(40, 10), 0.5, 0)[1]) == 25  # without classes


def test_a_split_test_goes_before_a_share(idx_folder, image_folder):
    args = data_args(idx_folder)
    train, tests = train_and_test(args, images_of(args))
    assert len(train) == 64 and {what: len(images) for what, images in tests.items()} == {"test": 64}
    args = data_args(image_folder)
    train, tests = train_and_test(args, images_of(args))
    ((what, test),) = tests.items()
    assert len(train) + len(test) == 64 and len(test) >= 10 and what == "25% of train, held out"


def test_other_splits_are_named(idx_folder, captioned):
    args = data_args(idx_folder, test_split=["train", "test"])
    assert list(train_and_test(args, images_of(args))[1]) == ["train", "test"]
    args = data_args(captioned / "images", test_split=["validation"], label_column=None)
    with pytest.raises(ValueError, match="no validation images found"):
        train_and_test(args, images_of(args))


def test_single_images_leave_nothing_to_test_on():
    with pytest.raises(ValueError, match="no class has two images.*--test_split"):
        train_and_test(data_args("/nowhere"), of_classes(1, 1, 1))


def test_channels_are_those_of_the_first_image_that_can_be_read(image_folder, tmp_path):
    assert num_channels_of(images_of(data_args(image_folder)), "image") == 1
    (tmp_path / "0.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "1.png")
    assert num_channels_of(images_of(data_args(tmp_path, label_column=None)), "image") == 3
