import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel
from hypothesis import settings
from PIL import Image
from safetensors.torch import load_file
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessorPil

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler, UViTTransformer2DModel, plots
from diffusers_autonat.metrics import compute_reference, load_extractor, save_reference
from diffusers_autonat.models.transformer_enat import ENATCache


# Property tests: the same cases in every run of the suite, and as many others as one has time for with
# `pytest --hypothesis-profile=long -m hypothesis`.
settings.register_profile("suite", max_examples=150, deadline=None, derandomize=True, database=None)
settings.register_profile("long", max_examples=5_000, deadline=None)


def pytest_configure(config):
    # Not at import: tests import this file a second time, when another profile may have been chosen.
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("suite")
    if hasattr(config, "workerinput"):  # one of several processes of `pytest -n`: they share the cores
        os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start
        torch.set_num_threads(1)


FIXTURES = Path(__file__).parent / "fixtures"
LABELS = {0: "cat, kitty", 1: "dog", 2: "Crane", 3: "crane"}


def load_reference(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The authors' weights, and the other tensors of a reference file."""
    tensors = load_file(FIXTURES / f"{name}.safetensors")
    weights = {key.removeprefix("nnet_ema."): value for key, value in tensors.items() if key.startswith("nnet_ema.")}
    return weights, {key: value for key, value in tensors.items() if not key.startswith("nnet_ema.")}


def tiny_vqvae(seed: int = 0, **changes) -> VQModel:
    """A stock VQModel, 28x28 grey images to a 7x7 grid of 16 codes."""
    torch.manual_seed(seed)
    config = {
        "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8, 8], "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
        "latent_channels": 4, "sample_size": 28, "num_vq_embeddings": 16, "norm_num_groups": 4, "vq_embed_dim": 4,
        "lookup_from_codebook": True,
    }  # fmt: skip
    return VQModel(**(config | changes)).eval()


def tiny_pipeline(seed: int = 0) -> AutoNATPipeline:
    vqvae = tiny_vqvae(seed)
    torch.manual_seed(seed)
    transformer = UViTTransformer2DModel(
        sample_size=7, codebook_size=16, hidden_size=32, num_layers=3, num_attention_heads=4, num_classes=4
    ).eval()
    scheduler = NATScheduler(16, [GenerationStrategy.cosine(4), GenerationStrategy.cosine(8)])
    pipeline = AutoNATPipeline(vqvae, transformer, scheduler, LABELS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny_classifier(folder: Path, num_labels: int = 4, seed: int = 0) -> None:
    """A random classifier of 28x28 grey images with six features, as a folder that an extractor loads."""
    torch.manual_seed(seed)
    config = RegNetConfig(
        num_channels=1, embedding_size=4, depths=[1, 1], groups_width=2, hidden_sizes=[4, 6], num_labels=num_labels
    )
    RegNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)


def save_tiny_study(folder: Path, images: np.ndarray) -> None:
    """A folder with `pipeline`, `judge` (a classifier of its four classes, six features), `reference.npz`."""
    tiny_pipeline().save_pretrained(folder / "pipeline")
    save_tiny_classifier(folder / "judge")
    samples = ((torch.from_numpy(image)[None], None) for image in images)
    save_reference(compute_reference(samples, load_extractor(str(folder / "judge"))), folder / "reference.npz")


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, still to be asked about."""
    saved = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


@pytest.fixture
def pipe() -> AutoNATPipeline:
    return tiny_pipeline()


def load_fashion_mnist() -> tuple[np.ndarray, np.ndarray]:
    """64 real test images, uint8 `[64, 28, 28]`, and their labels."""
    data = np.load(FIXTURES / "fashion_mnist_64.npz")
    return data["images"], data["labels"]


@pytest.fixture(scope="session")
def fashion_mnist():
    return load_fashion_mnist()


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory, fashion_mnist):
    """The 64 images as the IDX files of a Fashion-MNIST folder, as training and as test split."""
    folder = tmp_path_factory.mktemp("idx")
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", fashion_mnist[0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", fashion_mnist[1])
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory, fashion_mnist):
    """The 64 images as PNG files, one sub-folder per class."""
    folder = tmp_path_factory.mktemp("images")
    for i, (image, label) in enumerate(zip(*fashion_mnist)):
        path = folder / f"class-{label}" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def on_grid(cache: ENATCache, num_tokens: int) -> torch.Tensor:
    """Features `[B, N, D]` at the encoded positions, 0 elsewhere."""
    encoded, place = cache.place_of(num_tokens)
    features = cache.features.gather(1, place[..., None].expand(-1, -1, cache.features.shape[-1]))
    return features * encoded[..., None]
