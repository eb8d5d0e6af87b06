import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import VQModel
from PIL import Image

from diffusers_autonat.image_datasets import load_images
from diffusers_autonat.training.tokenizing import tokenize_dataset
from tests.conftest import tiny_vqvae
from tests.pipelines.text_encoders import tiny_encoder, tiny_tokenizer


COLOURS = ["red", "green"]


def save_captioned(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A folder with 64 `images` that have one or two captions, a tokenizer (`vqvae`), a text `encoder`, `tokens` with all captions."""
    (folder / "images").mkdir()
    with (folder / "images" / "metadata.jsonl").open("w") as file:
        for i, (image, label) in enumerate(zip(images, labels)):
            Image.fromarray(image).save(folder / "images" / f"{i:02d}.png")
            texts = [f"a {COLOURS[label % 2]} boat", f"the {COLOURS[label % 2]} boat on the lake"][: 1 + i % 2]
            file.write(json.dumps({"file_name": f"{i:02d}.png", "caption": texts[0], "captions": texts}) + "\n")
    tiny_vqvae().save_pretrained(folder / "vqvae")
    tiny_encoder("bert").save_pretrained(folder / "encoder")
    tiny_tokenizer().save_pretrained(folder / "encoder")
    dataset = load_images(None, str(folder / "images"), label_column=None, caption_column="captions")
    tokenize_dataset(
        dataset, VQModel.from_pretrained(folder / "vqvae"), folder / "tokens", 28, label_column=None, images_per_part=20,
        show_progress=False, caption_column="captions",
    )  # fmt: skip


@pytest.fixture(scope="session")
def captioned(fashion_mnist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    save_captioned(folder, *fashion_mnist)
    return folder
