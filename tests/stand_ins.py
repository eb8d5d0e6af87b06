"""What documents name and a test has to have: folders of the names of Hub ids, released files, images, results of long runs."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from diffusers import VQModel
from PIL import Image
from transformers import BertConfig, BertModel

from diffusers_autonat import (
    AdaptivePolicyModel,
    AutoNATAmusedPipeline,
    ENATTransformer2DModel,
    UViTTransformer2DModel,
)
from diffusers_autonat.image_datasets import load_images
from diffusers_autonat.provenance import model_hash
from diffusers_autonat.training.tokenizing import tokenize_dataset
from tests.conftest import save_tiny_classifier, write_idx
from tests.conversion.released import RELEASED_YAML, ReleasedVQGAN, randomise, release_enat, release_uvit
from tests.conversion.test_adagen import release_policy
from tests.pipelines.amused import tiny_amused
from tests.pipelines.text_encoders import WORDS, tiny_text_pipeline, tiny_tokenizer
from tests.training.test_icons import SHAPES, write_package


ROOT = Path(__file__).parents[1]
MODELS = ("autonat-fashion-mnist", "enat-fashion-mnist", "fashion-mnist-classifier")


def lay_out(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """An empty folder as a reader's clone, with what the pages take for granted beside it."""
    for name in ("benchmarks", "model_cards", "search", "training"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.md"))
    (folder / "PIPELINE").symlink_to(folder / "model_cards" / MODELS[0])
    for name in MODELS:  # as the cards name them, which lie on the Hub
        (folder / name).symlink_to(folder / "model_cards" / name)
    shutil.copytree(ROOT / "search" / "results" / "autonat-fashion-mnist-T4", folder / "outputs" / "search-T4")
    save_images(folder / "IMAGES", images, labels)
    save_photos(folder / "PHOTOS", images)
    save_fashion_mnist(folder / "FASHION_MNIST", images, labels)
    (folder / "captions.txt").write_text("a red boat\nthe lake\n")
    kinds = (words for count in range(1, 7) for words in itertools.combinations(WORDS[4:-1], count))
    (folder / "many-captions.txt").write_text("\n".join(f"{' '.join(words)} lake" for words in kinds))


def save_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """64-pixel colour images of two classes, a quarter of them to test with."""
    for i, (image, label) in enumerate(zip(images, labels)):
        place = folder / ("test" if i % 4 == 3 else "train") / f"kind-{label % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").resize((64, 64)).save(place / f"{i:02d}.png")


def save_photos(folder: Path, images: np.ndarray) -> None:
    """Images with captions."""
    folder.mkdir()
    rows = []
    for i, image in enumerate(images):
        Image.fromarray(image).convert("RGB").resize((32, 32)).save(folder / f"{i:02d}.png")
        rows.append(json.dumps({"file_name": f"{i:02d}.png", "caption": f"a {('red', 'green')[i % 2]} boat"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def save_held_out(folder: Path) -> None:
    """What `icons.py` holds out, as many as a judge of captions compares, which are those of `many-captions.txt`."""
    captions = (folder / "many-captions.txt").read_text().splitlines()[:100]
    photos = [Image.open(file) for file in sorted((folder / "PHOTOS").glob("*.png"))]
    pictures = [photos[row % len(photos)] for row in range(len(captions))]
    data = folder / "outputs" / "icons" / "data" / "data"
    data.mkdir(parents=True)
    Dataset.from_dict({"image": pictures, "caption": captions}).to_parquet(
        data / "unseen_pairs-00000-of-00001.parquet"
    )


def save_text_pipelines(folder: Path) -> None:
    """AutoNAT-Muse and aMUSEd, small and with random weights."""
    tiny_text_pipeline().save_pretrained(folder / "autonat-muse")
    tiny_amused().save_pretrained(folder / "amused" / "amused-256")
    AutoNATAmusedPipeline.from_amused(tiny_amused()).save_pretrained(folder / "amused-nat")


def save_released(folder: Path) -> None:
    """The authors' files, small and with random weights; where two models have a file of one name, in folders of theirs."""
    torch.manual_seed(0)
    sizes = {"sample_size": 4, "codebook_size": 32, "num_classes": 1000}
    uvit = {**sizes, "hidden_size": 32, "num_layers": 3}
    autonat = randomise(UViTTransformer2DModel(**uvit, num_attention_heads=8))
    enat = randomise(ENATTransformer2DModel(
        **sizes, hidden_size=32, num_encoder_layers=2, num_decoder_layers=2, num_attention_heads=16))  # fmt: skip
    muse = randomise(UViTTransformer2DModel(**uvit, num_attention_heads=16, context_dim=16))
    policy = randomise(AdaptivePolicyModel(32, hidden_size=16, conv_channels=8, mlp_channels=(16, 8), grid_size=4))
    vqgan = ReleasedVQGAN.random_weights([32, 32, 32, 32, 32], 1, 32, 16, 3)
    for name in ("autonat", "enat"):
        (folder / name).mkdir()
    torch.save(release_uvit(autonat), folder / "autonat" / "nnet_ema.pth")
    torch.save(release_enat(enat), folder / "enat" / "nnet_ema.pth")
    torch.save(release_uvit(muse), folder / "cc3m-285000.ckpt")
    torch.save(release_uvit(autonat), folder / "MaskGIT-L.pth")
    torch.save(release_policy(policy), folder / "maskgit_policy.pth")
    torch.save({"state_dict": vqgan}, folder / "vqgan_jax_strongaug.ckpt")
    (folder / "AutoNAT_L-T8_strategy.yaml").write_text(RELEASED_YAML)
    save_text_encoder(folder / "laion" / "CLIP-ViT-bigG-14-laion2B-39B-b160k", length=77)


def save_text_encoder(folder: Path, length: int = 32) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(
        vocab_size=len(WORDS), **sizes, max_position_embeddings=length, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )).save_pretrained(folder)  # fmt: skip
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = length
    tokenizer.save_pretrained(folder)


def save_encoder(folder: Path) -> None:
    save_text_encoder(folder / "text-encoder")


def save_minilm(folder: Path) -> None:
    """Words and states as those of the encoder that the icons' cards name; the judge in `folder` takes it for the one it had."""
    place = folder / "sentence-transformers" / "all-MiniLM-L6-v2"
    encoder = BertModel(BertConfig(
        vocab_size=len(WORDS), hidden_size=384, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32,
    ))  # fmt: skip
    encoder.save_pretrained(place)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 32
    tokenizer.save_pretrained(place)
    config = folder / "model_cards" / "icons-text-judge" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"text_encoder_hash": model_hash(encoder)}))


def save_packages(folder: Path) -> None:
    """Drawings of three styles, as npm has them."""
    for style in ("noto", "fluent-emoji-flat", "emojione"):
        write_package(folder / "packages" / style, SHAPES)


def save_fashion_mnist(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The four IDX files, with 64 images of either split."""
    folder.mkdir()
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)


def save_tokens(folder: Path) -> None:
    """What trainings of small models need: `outputs/tokens` and `outputs/vqgan`, and the same as `training/fashion_mnist.sh` has it."""
    outputs = folder / "outputs"
    shutil.copytree(ROOT / "model_cards" / "autonat-fashion-mnist" / "vqvae", outputs / "vqgan" / "vqvae")
    vqvae = VQModel.from_pretrained(outputs / "vqgan" / "vqvae")
    dataset = load_images(None, str(folder / "FASHION_MNIST"))
    tokenize_dataset(dataset, vqvae, outputs / "tokens", 28, flips=False, show_progress=False)
    for name in ("tokens", "vqgan"):
        shutil.copytree(outputs / name, outputs / "v4" / name)


def save_second_judge(folder: Path) -> None:
    save_tiny_classifier(folder / "OTHER_CLASSIFIER", num_labels=10)
