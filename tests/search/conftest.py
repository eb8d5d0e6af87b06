"""A tiny pipeline, extractor and reference in folders, for scripts that are run as a user runs them."""

import pytest
import torch
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessorPil

from diffusers_autonat.metrics import compute_reference, load_extractor, save_reference
from tests.conftest import tiny_pipeline


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, fashion_mnist):
    """Folder with `pipeline`, `judge` (a classifier of its four classes, six features), `reference.npz`."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline().save_pretrained(folder / "pipeline")
    torch.manual_seed(0)
    config = RegNetConfig(
        num_channels=1, embedding_size=4, depths=[1, 1], groups_width=2, hidden_sizes=[4, 6], num_labels=4
    )
    RegNetForImageClassification(config).save_pretrained(folder / "judge")
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(folder / "judge")
    images = ((torch.from_numpy(image)[None], None) for image in fashion_mnist[0])
    save_reference(compute_reference(images, load_extractor(str(folder / "judge"))), folder / "reference.npz")
    return folder
