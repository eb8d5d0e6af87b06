"""Sets of images by name, for references and for reconstructions."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

from diffusers_autonat.metrics.sources import find_columns, image_samples, open_dataset


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
