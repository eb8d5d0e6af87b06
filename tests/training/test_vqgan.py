import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTImageProcessorPil, ViTModel

from diffusers_autonat.training.vqgan import (
    CodebookUsage,
    PatchDiscriminator,
    PerceptualLoss,
    VQAutoencoder,
    adaptive_weight,
    hinge_discriminator_loss,
)
from tests.conftest import tiny_vqvae


def test_autoencoder_is_the_vqmodels_forward():
    vqvae, images = tiny_vqvae(), torch.rand(2, 1, 28, 28)
    reconstruction, loss, latents, codes = VQAutoencoder(vqvae)(images)
    assert torch.allclose(reconstruction, vqvae(images).sample, atol=1e-6)
    quantized = vqvae.quantize.embedding(codes).view(2, 7, 7, 4).movedim(-1, 1)
    assert loss.item() == pytest.approx(1.25 * (latents - quantized).square().mean().item(), rel=1e-5)


def test_without_codes_it_is_a_plain_autoencoder():
    autoencoder, images = VQAutoencoder(tiny_vqvae()), torch.rand(2, 1, 28, 28)
    reconstruction, loss, latents, codes = autoencoder(images, quantize=False)
    vqvae = autoencoder.vqvae
    assert torch.equal(reconstruction, vqvae.decoder(vqvae.post_quant_conv(latents)))
    assert loss.item() == 0 and codes.numel() == 0
    (reconstruction.mean() + loss).backward()
    assert all(
        parameter.grad is not None for parameter in autoencoder.parameters()
    )  # which several processes wait for
    assert vqvae.encoder.conv_in.weight.grad.abs().max() > 0 and vqvae.quantize.embedding.weight.grad.abs().max() == 0


def test_commitment_and_codebook_get_their_own_weights():
    """diffusers' quantiser weights the wrong term by default; beta has to act on the encoder."""
    autoencoder = VQAutoencoder(tiny_vqvae())
    autoencoder.vqvae.quantize.beta = 0.0
    autoencoder(torch.rand(2, 1, 28, 28))[1].backward()
    assert autoencoder.vqvae.quant_conv.weight.grad.abs().max() == 0
    assert autoencoder.vqvae.quantize.embedding.weight.grad.abs().max() > 0


def test_dead_codes_are_revived_with_latents():
    torch.manual_seed(0)
    codebook, latents = nn.Parameter(torch.zeros(5, 3)), torch.randn(2, 3, 4, 4)
    usage = CodebookUsage(5, "cpu")
    usage.update(torch.tensor([0, 0, 3]))
    assert usage.used() == 2 and usage.perplexity() == pytest.approx(1.889, abs=1e-3)
    assert usage.revive(codebook, latents, torch.Generator().manual_seed(0)) == 3
    vectors = latents.movedim(1, -1).reshape(-1, 3)
    for i in range(5):
        found = (vectors == codebook[i]).all(-1).any().item()
        assert found == (i in (1, 2, 4))
    assert usage.used() == 0


def test_discriminator_learns_to_tell_images_apart():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, hidden_size=16)
    real, fake = torch.rand(8, 1, 28, 28), torch.full((8, 1, 28, 28), 0.5)
    assert discriminator(real).shape[:2] == (8, 1) and discriminator(real).shape[-1] > 1
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    before = hinge_discriminator_loss(discriminator(real), discriminator(fake)).item()
    for _ in range(30):
        loss = hinge_discriminator_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * before


def test_hinge_loss():
    assert hinge_discriminator_loss(torch.tensor([2.0]), torch.tensor([-3.0])).item() == 0
    assert hinge_discriminator_loss(torch.tensor([0.0]), torch.tensor([0.0])).item() == 1


def test_adaptive_weight_is_the_ratio_of_gradients():
    weight = nn.Parameter(torch.ones(4))
    ratio = adaptive_weight((weight * 6).sum(), (weight * 2).sum(), weight)
    assert ratio.item() == pytest.approx(3, rel=1e-3) and not ratio.requires_grad and weight.grad is None


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_perceptual_loss_of_convolutional_and_token_models(kind, tmp_path):
    torch.manual_seed(0)
    if kind == "resnet":
        model = ResNetModel(ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    else:
        model = ViTModel(
            ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
        )
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loss = PerceptualLoss(str(tmp_path))
    target = torch.rand(2, 1, 28, 28)
    near = (target + 0.05 * torch.randn_like(target)).requires_grad_()
    far = torch.rand(2, 1, 28, 28)
    assert loss(target, target).item() == pytest.approx(0, abs=1e-6)
    assert 0 < loss(near, target).item() < loss(far, target).item()
    loss(near, target).backward()
    assert near.grad.abs().max() > 0 and all(p.grad is None for p in loss.parameters())


def test_revived_codes_go_where_the_codebook_is_worst():
    torch.manual_seed(0)
    latents = torch.zeros(2, 3, 8, 8) + 1e-3 * torch.randn(2, 3, 8, 8)  # background, which code 0 serves well
    latents[:, :, 3, 3:6] += torch.eye(3) * 5
    codebook = nn.Parameter(torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [9.0, 9.0, -9.0]]))
    usage = CodebookUsage(3, "cpu")
    usage.update(torch.zeros(4, dtype=torch.long))
    assert usage.revive(codebook, latents, torch.Generator().manual_seed(0)) == 2
    assert (codebook[1:].norm(dim=-1) > 4).all()


@pytest.mark.parametrize(("count", "size"), [(3, (3, 2)), (8, (8, 2)), (11, (8, 4))])
def test_any_number_of_reconstructions_is_drawn(tmp_path, count, size):
    script = runpy.run_path(str(Path(__file__).parents[2] / "training" / "train_vqgan.py"))
    images = torch.rand(count, 1, 4, 4)
    script["save_reconstructions"](tmp_path / "samples.png", images, 1 - images)
    picture = np.asarray(Image.open(tmp_path / "samples.png").convert("L"), dtype=np.float32)
    assert picture.shape == (4 * size[1], 4 * size[0])
    assert np.allclose(picture[:4, :4], images[0, 0].numpy() * 255, atol=1.5)
    assert np.allclose(picture[4:8, :4], 255 - picture[:4, :4], atol=1.5)
