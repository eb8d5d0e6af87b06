"""A pipeline by the class that its folder names."""

import json
import shutil
import warnings

import pytest
import torch

from diffusers_autonat import AutoNATInpaintPipeline, AutoNATPipeline
from diffusers_autonat.loading import emulates_half, load_pipeline, load_text_encoder, load_vqvae, warn_of_emulated
from tests.conftest import tiny_pipeline
from tests.pipelines.text_encoders import save_without_encoder, tiny_encoder, tiny_text_pipeline, tiny_tokenizer


SHIPPED = "model_cards/enat-fashion-mnist"


def test_loads_the_class_that_the_folder_names():
    pipe = load_pipeline(SHIPPED, torch.float16)
    assert type(pipe) is AutoNATPipeline
    assert pipe.transformer.dtype == pipe.vqvae.dtype == torch.float16


def test_what_was_saved_for_inpainting_generates(tmp_path):
    for name, pipe in (("class", tiny_pipeline()), ("text", tiny_text_pipeline())):
        AutoNATInpaintPipeline.from_pipe(pipe).save_pretrained(tmp_path / name)
        loaded = load_pipeline(tmp_path / name)
        assert type(loaded) is type(pipe)
        assert torch.equal(loaded.transformer.head.bias, pipe.transformer.head.bias)


def test_what_is_no_pipeline_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="has no model_index.json"):
        load_pipeline(tmp_path)
    shutil.copy(f"{SHIPPED}/model_index.json", tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "DiTPipeline"}))
    with pytest.raises(ValueError, match="holds a DiTPipeline; the pipelines of this package are .*AutoNATPipeline"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("load", "what"), [(load_pipeline, "a pipeline"), (load_vqvae, "a VQModel"), (load_text_encoder, "a text encoder")]
)
@pytest.mark.parametrize("name", ["nobody/nothing", "outputs/vqgan/vqvae"])  # the latter cannot be an id
def test_an_unreachable_name_is_one_line(load, what, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"{name} is no folder of {what}, and none can be reached"):
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            load(name)
    assert not given


def test_a_tokenizer_comes_ready_to_be_used(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    for vqvae in (load_vqvae(tmp_path, "vqvae"), load_vqvae(tmp_path / "vqvae")):
        assert not vqvae.training and not any(one.requires_grad for one in vqvae.parameters())
    with pytest.raises(OSError, match="config.json"):
        load_vqvae(tmp_path)  # a folder, of something else: what diffusers misses


def test_a_text_encoder_that_is_stored_elsewhere(tmp_path):
    encoder = save_without_encoder(tmp_path / "text", tmp_path / "encoder")
    alone = load_pipeline(tmp_path / "text")
    assert alone.text_encoder is None and alone.tokenizer is None
    pipe = load_pipeline(tmp_path / "text", torch.bfloat16, text_encoder=encoder)
    assert pipe.text_encoder.dtype == pipe.transformer.dtype == torch.bfloat16
    pipe, whole = load_pipeline(tmp_path / "text", text_encoder=encoder), tiny_text_pipeline()
    for one in (pipe, whole):
        one.set_progress_bar_config(disable=True)
    drawn = [
        one("a red boat", generator=torch.Generator().manual_seed(0), output_type="latent").images
        for one in (pipe, whole)
    ]
    assert torch.equal(*drawn)


def test_a_text_encoder_that_does_not_belong_is_refused(tmp_path):
    encoder = save_without_encoder(tmp_path / "text", tmp_path / "encoder")
    tiny_text_pipeline().save_pretrained(tmp_path / "whole")
    tiny_encoder(width=24).save_pretrained(tmp_path / "wide")
    tiny_tokenizer().save_pretrained(tmp_path / "wide")
    for folder, name, message in (
        (SHIPPED, encoder, "draws from classes: leave the text encoder .*encoder out"),
        (tmp_path / "whole", encoder, "has a text encoder: leave .*encoder out"),
        (
            tmp_path / "text",
            str(tmp_path / "wide"),
            "wide has states of width 24, and the transformer was trained on 16",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load_pipeline(folder, text_encoder=name)


@pytest.mark.parametrize("device, has, slow", [
    ("cpu", {"architecture": "x86_64", "avx2": True, "avx512_bw": False}, True),
    ("cpu", {"architecture": "x86_64", "avx512_bw": True}, False),
    ("cpu", {"architecture": "x86_64", "avx512_bw": False, "avx_ne_convert": True}, False),
    ("cpu", {"architecture": "aarch64"}, False), ("cuda", {"architecture": "x86_64", "avx512_bw": False}, False),
])  # fmt: skip
def test_half_precision_is_told_where_a_processor_crawls_in_it(device, has, slow, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: has)
    assert emulates_half(torch.device(device)) is slow
    for dtype, told in [("float32", False), ("bfloat16", slow), ("float16", slow)]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_emulated(dtype, device)
        assert [f"leave --dtype {dtype} out" in str(one.message) for one in caught] == [True] * told
