import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    LevitImageProcessorPil,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from diffusers_autonat.metrics import load_extractor
from diffusers_autonat.metrics.extractors.base import match_channels, to_uint8


TINY = {"num_channels": 1, "embedding_size": 4, "depths": [1, 1], "groups_width": 2, "num_labels": 10}
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**TRANSFORMER, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
GREY = {"image_mean": [0.3], "image_std": [0.4]}
FAMILIES = {
    "regnet": (
        RegNetForImageClassification,
        RegNetConfig(**TINY, hidden_sizes=[4, 8]),
        ViTImageProcessorPil(size={"height": 28, "width": 28}, **GREY),
    ),
    "vit": (
        ViTForImageClassification,
        ViTConfig(**TRANSFORMER, image_size=32, patch_size=8, num_labels=10),
        ViTImageProcessorPil(size={"height": 32, "width": 32}),
    ),
    "dinov2": (
        Dinov2Model,
        Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=7
        ),
        BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}),
    ),
    "clip": (
        CLIPModel,
        CLIPConfig(text_config=TEXT, vision_config={**TRANSFORMER, "image_size": 28, "patch_size": 7}),
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
    ),
    "resnet": (
        ResNetForImageClassification,
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=10),
        ConvNextImageProcessorPil(size={"shortest_edge": 56}, crop_pct=0.875),
    ),
    "convnext": (
        ConvNextForImageClassification,
        ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=10),
        ConvNextImageProcessorPil(size={"shortest_edge": 56}, crop_pct=0.875),
    ),
}


def save(folder, model_class, config, processor, seed=0):
    torch.manual_seed(seed)
    model_class(config).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def images(request):
    with np.load(request.config.rootpath / "tests/fixtures/fashion_mnist_64.npz") as file:
        return torch.from_numpy(file["images"])[:, None]


@pytest.fixture
def regnet(tmp_path):
    return load_extractor(save(tmp_path / "judge", *FAMILIES["regnet"]))


@pytest.mark.parametrize("family", ["regnet", "vit", "dinov2", "clip", "resnet", "convnext"])
def test_features_and_logits_are_those_of_transformers(family, tmp_path, images):
    model_class, config, processor = FAMILIES[family]
    extractor = load_extractor(save(tmp_path, model_class, config, processor))
    features, logits = extractor(images)
    mode = "L" if family == "regnet" else "RGB"
    pictures = [Image.fromarray(image[0].numpy()).convert(mode) for image in images]
    arrays = [np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1) for picture in pictures]
    pixels = processor(arrays, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    model = model_class.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        if family in ("dinov2", "clip"):
            expected = getattr(model, "vision_model", model)(pixel_values=pixels).pooler_output
            assert logits is None and extractor.num_classes is None and extractor.id2label is None
        else:
            output = model(pixel_values=pixels, output_hidden_states=True)
            base = model.base_model(pixel_values=pixels)
            expected = base.last_hidden_state[:, 0] if family == "vit" else base.pooler_output.flatten(1)
            torch.testing.assert_close(logits, output.logits, atol=2e-2, rtol=2e-2)
            assert extractor.num_classes == 10 and extractor.id2label[3] == "LABEL_3"
    assert extractor.preprocessing["pooling"] == ("class token" if family == "vit" else "pooler_output")
    # Torch and Pillow resize to within one grey level of each other.
    torch.testing.assert_close(features, expected, atol=3e-2, rtol=3e-2)
    assert features.shape == (64, extractor.num_features) and features.dtype == torch.float32
    assert not extractor.is_standard_inception
    assert "torchvision" not in sys.modules


def test_identity_names_the_weights_and_is_json(regnet, tmp_path):
    weights = (tmp_path / "judge" / "model.safetensors").read_bytes()
    identity = regnet.identity()
    assert identity["weights_hash"] == hashlib.sha256(weights).hexdigest()[:16]
    assert identity["name"] == "judge" and identity["num_features"] == 8
    assert json.loads(json.dumps(identity)) == identity


def test_sharded_weights_are_hashed_whole(tmp_path):
    model_class, config, processor = FAMILIES["regnet"]
    torch.manual_seed(0)
    model_class(config).save_pretrained(tmp_path, max_shard_size="3KB")
    processor.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    expected = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    assert load_extractor(str(tmp_path)).weights_hash == expected


@pytest.mark.parametrize("family", ["regnet", "vit"])
def test_features_and_logits_do_not_depend_on_the_batch(family, tmp_path, images):
    extractor = load_extractor(save(tmp_path, *FAMILIES[family]))
    expected, expected_logits = extractor(images)
    for batch_size in (1, 5, 33, 64):
        order = torch.randperm(64)
        features, logits = zip(*(extractor(images[rows], rows) for rows in order.split(batch_size)))
        assert torch.equal(torch.cat(features), expected[order])
        assert torch.equal(torch.cat(logits), expected_logits[order])


def test_float_images_count_as_what_would_be_saved(regnet, images):
    expected = regnet(images)[0]
    noise = (torch.rand(images.shape) - 0.5) / 255 * 0.9
    assert torch.equal(regnet((images / 255 + noise).clamp(0, 1))[0], expected)
    assert torch.equal(regnet(images.half() / 255)[0], expected)


def test_arithmetic_is_plain_float32_whatever_is_set(regnet, images, monkeypatch):
    def settings():
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.get_float32_matmul_precision()

    seen, extract = [], regnet.extract
    monkeypatch.setattr(regnet, "extract", lambda batch: seen.append(settings()) or extract(batch))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            regnet(images[:1])
            assert seen == [(False, True, False, "highest")] and settings() == (True, False, True, "high")
    finally:
        torch.set_float32_matmul_precision(precision)


def test_channels_are_adapted(regnet, images):
    assert torch.equal(regnet(images.expand(-1, 3, -1, -1))[0], regnet(images)[0])
    colour = torch.randint(256, (2, 3, 9, 9), dtype=torch.uint8)
    grey = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in colour]
    assert np.array_equal(match_channels(colour, 1)[:, 0].numpy(), np.stack(grey))
    assert match_channels(images, 3).shape == (64, 3, 28, 28)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 1, 8, 8) * 2 - 1, r"must lie in \[0, 1\], got values from -"),
        (torch.full((2, 1, 8, 8), torch.nan), "got values from nan"),
        (torch.rand(1, 8, 8), r"must be \[B, 1 or 3, H, W\], got \[1, 8, 8\]"),
        (torch.rand(2, 4, 8, 8), "got .2, 4, 8, 8"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        to_uint8(images)


def test_untrained_pooler_is_not_used(tmp_path, images):
    """A pooler that the checkpoint lacks is initialised at random: its output would be another at every load."""
    config = FAMILIES["vit"][1]
    folder = save(tmp_path, *FAMILIES["vit"])
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "architectures": ["ViTModel"]}))
    first, second = load_extractor(folder), load_extractor(folder)
    assert torch.equal(first(images)[0], second(images)[0])
    assert first.preprocessing["pooling"] == "class token"

    trained = load_extractor(save(tmp_path / "trained", ViTModel, config, FAMILIES["vit"][2]))
    assert trained(images)[0].abs().max() < 1  # a tanh


def test_incomplete_checkpoints_are_refused(tmp_path):
    model_class, config, processor = FAMILIES["regnet"]
    folder = save(tmp_path / "no_processor", model_class, config, None)
    with pytest.raises(ValueError, match="no image processor"):
        load_extractor(folder)

    folder = save(tmp_path / "no_weights", model_class, config, processor)
    (tmp_path / "no_weights" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no model.safetensors"):
        load_extractor(folder)

    folder = save(tmp_path / "deeper", model_class, config, processor)
    settings = json.loads((tmp_path / "deeper" / "config.json").read_text())
    (tmp_path / "deeper" / "config.json").write_text(json.dumps({**settings, "depths": [1, 2]}))
    with pytest.raises(ValueError, match="lacks weights"):
        load_extractor(folder)


def test_random_features_are_refused(tmp_path):
    config = ViTMAEConfig(**TRANSFORMER, image_size=28, patch_size=7)
    folder = save(tmp_path, ViTMAEModel, config, ViTImageProcessorPil(size={"height": 28, "width": 28}))
    with pytest.raises(ValueError, match="other features each time"):
        load_extractor(folder)


def test_unknown_preparation_is_refused(tmp_path):
    """LeViT's processor resizes by a rule of its own; it is compared and refused, not approximated."""
    processor = LevitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with pytest.raises(ValueError, match="LevitImageProcessor.* not reproduced"):
        load_extractor(save(tmp_path, *FAMILIES["vit"][:2], processor))


def test_names_that_lead_nowhere(regnet, tmp_path):
    with pytest.raises(ValueError, match="not `inception`, not a local folder"):
        load_extractor(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="goes with `inception` only"):
        load_extractor("judge", weights="weights.pth")


def test_standard_network_without_its_weights(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(no network\): name a file"):
        load_extractor("inception")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "nothing.pth").touch()
    (tmp_path / "words.pth").write_text("hello")
    for name in ("other.pth", "nothing.pth", "words.pth"):
        with pytest.raises(ValueError, match=f"{name} does not hold the weights of the FID network: take weights-inc"):
            load_extractor("inception", tmp_path / name)
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        load_extractor("inception", tmp_path / "gone.pth")
