"""MaskGIT's tokenizer inside a stock VQModel: equal to the authors' tensors, and to the layout for any sizes."""

import pytest
import torch
from diffusers import VQModel

from diffusers_autonat.conversion import convert_vqgan_state_dict
from diffusers_autonat.models.tokenizer import padding_blocks, skip_padding_blocks
from tests.conversion.released import ReleasedVQGAN, load_vqgan


def build(weights, **kwargs) -> VQModel:
    config, state_dict = convert_vqgan_state_dict(weights, **kwargs)
    vqvae = VQModel(**config).eval()
    vqvae.load_state_dict(state_dict)
    return vqvae


def decode(vqvae, codes):
    shape = (*codes.shape, vqvae.config.vq_embed_dim)
    return vqvae.decode(codes.flatten(1), force_not_quantize=True, shape=shape).sample


def encode(vqvae, images):
    latents = vqvae.encode(images).latents
    batch, _, height, width = latents.shape
    return latents, vqvae.quantize(latents)[2][2].view(batch, height, width)


@torch.no_grad()
@pytest.mark.parametrize("skip", [False, True])
def test_the_released_tokenizer(skip):
    weights, reference = load_vqgan()
    vqvae = build(weights, grid_size=8)
    if skip:
        skip_padding_blocks(vqvae)
    latents, codes = encode(vqvae, reference["image"])
    assert (latents - reference["encoder_output"]).abs().max() < 2e-5 * reference["encoder_output"].abs().max()
    assert torch.equal(codes, reference["codes"])
    assert (decode(vqvae, reference["codes"]) - reference["reconstruction"]).abs().max() < 1e-4
    assert (decode(vqvae, reference["random_codes"]) - reference["random_decoded"]).abs().max() < 1e-4
    assert vqvae.config.sample_size == 32 and vqvae.config.num_vq_embeddings == 48


@torch.no_grad()
@pytest.mark.parametrize(
    ("widths", "num_layers", "num_codes", "latents", "channels", "side"),
    [
        ([32, 64, 64], 2, 17, 5, 3, 24),
        ([64, 32], 1, 30, 32, 1, 14),
        ([32, 32, 32, 96], 3, 9, 8, 3, 24),
        ([32], 2, 12, 4, 1, 6),
        ([32, 64], 2, 12, 4, 3, 15),  # an odd side: pooling drops the last row
    ],
)
def test_other_shapes(widths, num_layers, num_codes, latents, channels, side):
    torch.manual_seed(0)
    weights = ReleasedVQGAN.random_weights(widths, num_layers, num_codes, latents, channels)
    released, vqvae = ReleasedVQGAN(weights), build(weights)
    skip_padding_blocks(vqvae)
    assert len(padding_blocks(vqvae)) == len(widths)
    images = torch.rand(2, channels, side, side)
    expected = released.encode(images)
    found, codes = encode(vqvae, images)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    expected = released.decode(codes)
    assert (decode(vqvae, codes) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_written_layout_is_the_released_one():
    weights, reference = load_vqgan()
    released = ReleasedVQGAN(weights)
    assert (released.encode(reference["image"]) - reference["encoder_output"]).abs().max() < 1e-4
    assert (released.decode(reference["codes"]) - reference["reconstruction"]).abs().max() < 1e-4


def test_padding_can_be_trained():
    vqvae = build(load_vqgan()[0])
    skip_padding_blocks(vqvae)
    decode(vqvae, torch.zeros(1, 8, 8, dtype=torch.long)).square().mean().backward()
    for level in vqvae.decoder.up_blocks:
        assert level.resnets[-1].conv2.weight.grad.any()


def test_all_wrong_tensors_are_listed():
    weights, _ = load_vqgan()
    del weights["decoder.mid.block_1.norm1.bias"]
    weights["encoder.mid.attn_1.q.weight"] = torch.zeros(64, 64, 1, 1)
    weights["encoder.conv_out.weight"] = torch.zeros(32, 64, 3, 3)
    weights["decoder.up.1.block.0.nin_shortcut.weight"] = torch.zeros(32, 64, 1, 1)
    with pytest.raises(ValueError) as error:
        convert_vqgan_state_dict(weights)
    assert {line.strip() for line in str(error.value).splitlines()[1:]} == {
        "missing: decoder.mid.block_1.norm1.bias",
        "not expected: encoder.mid.attn_1.q.weight",
        "shape: encoder.conv_out.weight is [32, 64, 3, 3], expected [32, 64, 1, 1]",
        "shape: decoder.up.1.block.0.nin_shortcut.weight is [32, 64, 1, 1], expected [32, 32, 1, 1]",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"token_emb.weight": torch.zeros(2, 2)}, r"quantize.embedding.weight.*token_emb"),
        (lambda w: {n: t for n, t in w.items() if not n.startswith("encoder.down")}, "encoder.down"),
        (lambda w: {n: t for n, t in w.items() if n != "decoder.conv_out.weight"}, "decoder.conv_out.weight"),
    ],
)
def test_other_files(change, message):
    with pytest.raises(ValueError, match=message):
        convert_vqgan_state_dict(change(load_vqgan()[0]))
