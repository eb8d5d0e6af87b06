"""Padding blocks are not run, and nothing else is different."""

import copy
import json

import pytest
import torch
from diffusers import VQModel
from diffusers.models.resnet import ResnetBlock2D

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.models.tokenizer import PaddingResnetBlock2D, padding_blocks, skip_padding_blocks
from tests.conftest import tiny_vqvae


NAMES = [f"up_blocks.{level}.resnets.1" for level in range(3)]


@pytest.fixture
def padded(pipe) -> AutoNATPipeline:
    """A pipeline whose decoder has a padding block at the end of each of its three levels."""
    vqvae = tiny_vqvae()
    for name in NAMES:
        conv = vqvae.decoder.get_submodule(name).conv2
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    return AutoNATPipeline(vqvae, pipe.transformer, pipe.scheduler)


def runs(vqvae, function) -> list[str]:
    """The decoder's convolutions inside residual blocks that `function` runs."""
    seen = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, module in vqvae.decoder.named_modules()
        if name.endswith("conv2")
    ]
    function()
    for handle in handles:
        handle.remove()
    return seen


TOKENS = torch.arange(49).view(1, 49) % 16


def decode(pipe):
    with torch.no_grad():
        return pipe.decode_latents(TOKENS)


def test_only_padding_blocks_are_left_out(padded, pipe):
    assert padding_blocks(padded.vqvae) == NAMES and padding_blocks(pipe.vqvae) == []
    names = runs(padded.vqvae, lambda: decode(padded))
    assert len(names) == 5 and not any(name.removesuffix(".conv2") in NAMES for name in names)
    assert len(runs(pipe.vqvae, lambda: decode(pipe))) == 8
    stock = tiny_vqvae()
    stock.load_state_dict(padded.vqvae.state_dict())
    expected = stock.decode(TOKENS, force_not_quantize=True, shape=(1, 7, 7, 4)).sample.clamp(0, 1)
    assert torch.equal(decode(padded), expected)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_block_that_adds_anything_is_run(padded, part):
    block = padded.vqvae.decoder.get_submodule(NAMES[1])
    with torch.no_grad():
        getattr(block.conv2, part).view(-1)[-1] = 1e-20
    skip_padding_blocks(padded.vqvae)
    assert padding_blocks(padded.vqvae) == [NAMES[0], NAMES[2]] and type(block) is ResnetBlock2D


def test_a_block_with_a_shortcut_is_run():
    vqvae = tiny_vqvae(block_out_channels=[8, 16, 16], norm_num_groups=4)
    changing = [n for n, m in vqvae.decoder.named_modules() if getattr(m, "conv_shortcut", None) is not None]
    for name in changing:
        for parameter in vqvae.decoder.get_submodule(name).conv2.parameters():
            torch.nn.init.zeros_(parameter)
    skip_padding_blocks(vqvae)
    assert changing and padding_blocks(vqvae) == []


def test_saving_loading_casting_and_copying(padded, tmp_path):
    before = decode(padded)
    padded.save_pretrained(tmp_path / "a")
    loaded = AutoNATPipeline.from_pretrained(tmp_path / "a")
    assert padding_blocks(loaded.vqvae) == NAMES and torch.equal(decode(loaded), before)
    loaded.save_pretrained(tmp_path / "b")
    weights, configs = (
        [(tmp_path / folder / "vqvae" / file).read_bytes() for folder in "ab"]
        for file in ("diffusion_pytorch_model.safetensors", "config.json")
    )
    assert weights[0] == weights[1]
    assert json.loads(configs[0]).items() <= json.loads(configs[1]).items()  # the second names where it came from
    stock = VQModel.from_pretrained(tmp_path / "b", subfolder="vqvae")
    assert type(stock.decoder.get_submodule(NAMES[0])) is ResnetBlock2D
    assert padding_blocks(copy.deepcopy(padded.vqvae)) == NAMES
    half = loaded.to(torch.bfloat16)
    assert padding_blocks(half.vqvae) == NAMES
    assert len(runs(half.vqvae, lambda: decode(half))) == 5
    assert padding_blocks(AutoNATPipeline.from_pretrained(tmp_path / "a", dtype=torch.float16).vqvae) == NAMES


def test_other_weights_are_never_skipped(padded):
    other = tiny_vqvae(seed=1)
    padded.vqvae.load_state_dict(other.state_dict())
    expected = other.decode(TOKENS, force_not_quantize=True, shape=(1, 7, 7, 4)).sample.clamp(0, 1)
    assert torch.equal(decode(padded), expected)


def test_training_runs_every_block(padded):
    vqvae = padded.vqvae
    assert len(runs(vqvae, lambda: padded.decode_latents(TOKENS))) == 8  # gradients are recorded
    assert padding_blocks(vqvae) == NAMES
    vqvae.train()
    assert padding_blocks(vqvae) == []
    vqvae.eval()
    assert len(runs(vqvae, lambda: decode(padded))) == 8
    vqvae.train()
    skip_padding_blocks(vqvae)
    assert padding_blocks(vqvae) == []


def test_no_weight_is_read_while_decoding(padded):
    # On the meta device nothing can be read.
    vqvae = padded.vqvae.to("meta")
    assert len(runs(vqvae, lambda: decode_meta(vqvae))) == 5
    skip_padding_blocks(vqvae)
    assert padding_blocks(vqvae) == NAMES
    assert isinstance(vqvae.decoder.get_submodule(NAMES[0]), PaddingResnetBlock2D)


def decode_meta(vqvae):
    with torch.no_grad():
        return vqvae.decode(TOKENS.to("meta"), force_not_quantize=True, shape=(1, 7, 7, 4)).sample


def test_offloading(padded):
    from accelerate import cpu_offload

    before = decode(padded)
    cpu_offload(padded.vqvae, execution_device=torch.device("cpu"))
    assert len(runs(padded.vqvae, lambda: decode(padded))) == 5 and torch.equal(decode(padded), before)


def test_compiled(padded):
    expected = decode(padded)
    compiled = torch.compile(padded.vqvae.decoder, backend="eager", fullgraph=True)
    with torch.no_grad():
        quantized = padded.vqvae.quantize.get_codebook_entry(TOKENS, (1, 7, 7, 4))
        images = compiled(padded.vqvae.post_quant_conv(quantized)).clamp(0, 1)
    assert torch.allclose(images, expected, atol=1e-6)


@pytest.mark.parametrize("width", [8, 128])
def test_channels_of_wide_decoders_are_last_in_memory(pipe, width, tmp_path):
    wide = {"block_out_channels": [width] * 3, "norm_num_groups": 4}
    stock, vqvae = tiny_vqvae(**wide), tiny_vqvae(**wide)
    made = AutoNATPipeline(vqvae, pipe.transformer, pipe.scheduler)
    is_last = [
        conv.weight.is_contiguous(memory_format=torch.channels_last)
        for conv in vqvae.decoder.modules()
        if isinstance(conv, torch.nn.Conv2d) and conv.kernel_size != (1, 1) and min(conv.weight.shape[:2]) > 1
    ]
    assert is_last and set(is_last) == {width == 128}
    expected = stock.decode(TOKENS, force_not_quantize=True, shape=(1, 7, 7, 4)).sample.clamp(0, 1)
    torch.testing.assert_close(decode(made), expected, rtol=1e-4, atol=1e-4)
    made.save_pretrained(tmp_path)
    loaded = AutoNATPipeline.from_pretrained(tmp_path)
    assert torch.equal(decode(loaded), decode(made))
    for name, tensor in stock.state_dict().items():
        assert torch.equal(loaded.vqvae.state_dict()[name], tensor)
