"""`train_autonat.py --rank`: an adapter to a trained pipeline, class- or text-conditional, U-ViT or ENAT."""

import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from diffusers_autonat import AutoNATPipeline, AutoNATTextToImagePipeline, ENATTransformer2DModel, NATScheduler
from diffusers_autonat.training.averages import averaged_copy, averaged_model, trained_parameters
from diffusers_autonat.training.lora import AdapterState, add_adapter
from tests.conftest import tiny_pipeline, tiny_vqvae
from tests.pipelines.text_encoders import tiny_text_pipeline
from tests.training.test_scripts_in_process import run


WEIGHTS = "pytorch_lora_weights.safetensors"


def enat_pipeline():
    torch.manual_seed(0)
    transformer = ENATTransformer2DModel(
        sample_size=7, codebook_size=16, hidden_size=32, num_encoder_layers=2, num_decoder_layers=1, num_attention_heads=4,
        num_classes=10,
    ).eval()  # fmt: skip
    for block in (*transformer.encoder_blocks, *transformer.decoder_blocks):
        torch.nn.init.normal_(block.modulation.weight, std=0.2)  # else attention is gated away
    return AutoNATPipeline(tiny_vqvae(), transformer, NATScheduler(16))


@pytest.fixture(params=["class", "enat", "text"])
def base(request, captioned, idx_folder, tmp_path, monkeypatch, capsys):
    """A saved pipeline, a token set for it, its class, and what to ask it for."""
    if request.param == "text":
        tiny_text_pipeline("bert").save_pretrained(tmp_path / "base")
        return tmp_path / "base", captioned / "tokens", AutoNATTextToImagePipeline, "a red boat"
    pipeline = enat_pipeline()
    if request.param == "class":
        pipeline = tiny_pipeline()
        transformer = type(pipeline.transformer).from_config(pipeline.transformer.config, num_classes=10)
        pipeline = AutoNATPipeline(pipeline.vqvae, transformer, pipeline.scheduler)
    pipeline.save_pretrained(tmp_path / "base")
    args = [
        "--train_data_dir",
        idx_folder,
        "--vqvae",
        captioned / "vqvae",
        "--resolution",
        28,
        "--output_dir",
        tmp_path / "tokens",
    ]
    assert run("tokenize_images.py", args, monkeypatch, capsys)[0] == 0
    return tmp_path / "base", tmp_path / "tokens", AutoNATPipeline, 3


def lora_args(base, output, *more):
    return ["--train_data_dir", base[1], "--pretrained_model_name_or_path", base[0], "--rank", 2, "--max_train_steps", 4,
            "--train_batch_size", 16, "--learning_rate", "3e-2", "--lr_warmup_steps", 0, "--logging_steps", 1, "--use_ema",
            "--reuse_prob", 1, "--output_dir", output, *more]  # fmt: skip


def images(pipeline, asked):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline([asked] * 4, num_inference_steps=4, generator=generator, output_type="latent").images


def test_an_adapter_is_trained_saved_loaded_and_taken_off(base, tmp_path, monkeypatch, capsys):
    args = lora_args(base, tmp_path / "out", "--checkpointing_steps", 2, "--mask_distribution", "fixed")
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    folder = tmp_path / "out" / "lora"
    weights = load_file(folder / WEIGHTS)
    assert all("lora_" in name and name.startswith("transformer.") for name in weights)
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert sorted(path.name for path in checkpoint.glob("*.safetensors")) == [
        "adapter.safetensors", "ema.safetensors", "lr_scheduler.safetensors", "optimizer.safetensors"
    ]  # fmt: skip
    assert all("lora_" in name for name in load_file(checkpoint / "adapter.safetensors"))

    pipeline = base[2].from_pretrained(base[0])
    before = images(pipeline, base[3])
    pipeline.load_lora_weights(folder)
    assert not torch.equal(images(pipeline, base[3]), before)
    pipeline.unload_lora_weights()
    assert torch.equal(images(pipeline, base[3]), before)

    shutil.copytree(checkpoint, tmp_path / "resumed" / "checkpoint-2")
    args = lora_args(base, tmp_path / "resumed", "--resume_from_checkpoint", "latest", "--mask_distribution", "fixed")
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    resumed = load_file(tmp_path / "resumed" / "lora" / WEIGHTS)
    assert resumed.keys() == weights.keys() and all(torch.equal(resumed[name], weights[name]) for name in weights)

    card = ModelCard.load(folder / "README.md")
    assert (
        "lora" in card.data.tags and 'from_pretrained("./base")' in card.content and str(tmp_path) not in card.content
    )
    assert 'pipe.load_lora_weights("./out/lora")' in card.content and "LoRA of rank 2" in card.content


def test_the_average_of_an_adapter_leaves_the_rest_as_it_is():
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

    model = enat_pipeline().transformer
    add_adapter(model, 2)
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    ema = EMAModel(trained_parameters(model), decay=0.5)
    for _ in range(2):  # the first step takes the weights as they are
        for parameter in trained_parameters(model):
            parameter.data += 1
        ema.step(trained_parameters(model))
    copy = averaged_copy(Accelerator(cpu=True), model, ema)
    followed = averaged_model(model, ema)
    for (name, one), other, average in zip(model.named_parameters(), copy.parameters(), followed.parameters()):
        assert torch.equal(other, average) and torch.equal(one, average) != ("lora_" in name)


def test_the_state_of_another_adapter_is_refused():
    small, large = tiny_pipeline().transformer, tiny_pipeline().transformer
    add_adapter(small, 2)
    add_adapter(large, 4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        AdapterState(small).load_state_dict(AdapterState(large).state_dict())
    with pytest.raises(ValueError, match="the model has no nowhere.lora_A"):
        AdapterState(small).load_state_dict({"nowhere.lora_A.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    "more, message",
    [
        (["--rank", 0], "argument --rank"),
        (["--rank", 2], "--rank adapts a trained pipeline: name it with --pretrained_model_name_or_path"),
    ],
)
def test_what_is_wrong_is_one_line(captioned, tmp_path, more, message, monkeypatch, capsys):
    args = [
        "--train_data_dir",
        captioned / "tokens",
        "--vqvae",
        captioned / "vqvae",
        "--output_dir",
        tmp_path / "out",
        *more,
    ]
    status, lines = run("train_autonat.py", args, monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out" / "lora").exists()
