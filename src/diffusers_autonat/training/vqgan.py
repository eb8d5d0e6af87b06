"""Losses and modules of tokenizer training that are not part of the tokenizer itself (VQGAN, arXiv:2012.09841)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import nn
from transformers import AutoImageProcessor, AutoModel


class VQAutoencoder(nn.Module):
    """A `VQModel` as one forward pass: images to reconstruction, quantisation loss, latents and codes.

    `VQModel.forward` keeps latents and codes to itself, and training needs both. Without quantisation it is a plain
    autoencoder: no code, and a loss of 0.
    """

    def __init__(self, vqvae: VQModel):
        super().__init__()
        self.vqvae = vqvae
        # diffusers keeps a historical swap of the two terms by default: weight the commitment, not the codebook.
        self.vqvae.quantize.legacy = False

    def forward(
        self, pixel_values: torch.Tensor, quantize: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        latents = self.vqvae.encode(pixel_values).latents  #                                  [B, D, h, w]
        if not quantize:
            nothing = (
                0 * self.vqvae.quantize.embedding.weight.sum()
            )  # several processes wait for every parameter's gradient
            none = torch.empty(0, dtype=torch.long, device=latents.device)
            return self.vqvae.decoder(self.vqvae.post_quant_conv(latents)), nothing, latents, none
        quantized, quantization_loss, (_, _, codes) = self.vqvae.quantize(latents)  #         [B, D, h, w], [], [B*h*w]
        reconstruction = self.vqvae.decoder(self.vqvae.post_quant_conv(quantized))  #         [B, C, H, W]
        return reconstruction, quantization_loss, latents, codes


class PatchDiscriminator(nn.Module):
    """Real-or-reconstructed score for every image patch (PatchGAN, arXiv:1611.07004): `[B, C, H, W]` to `[B, 1, h, w]`."""

    def __init__(self, num_channels: int, hidden_size: int = 64, num_layers: int = 2):
        super().__init__()
        widths = [hidden_size * min(2**i, 8) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(num_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(zip(widths, widths[1:])):
            stride = 2 if i < num_layers - 1 else 1
            layers += [nn.Conv2d(before, after, 4, stride, 1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def hinge_discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction_loss: torch.Tensor, adversarial_loss: torch.Tensor, last_layer: nn.Parameter):
    """Ratio of the two losses' gradients at the decoder's last layer: keeps the adversarial pull as strong as the other."""
    (wanted,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (adversarial,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
    return (wanted.norm() / (adversarial.norm() + 1e-4)).clamp(0, 1e4).detach()


class PerceptualLoss(nn.Module):
    """Distance between two images in the feature maps of any transformers vision model (after LPIPS, arXiv:1801.03924).

    Every hidden state is normalised to unit length over its channels; squared differences are averaged over
    positions and layers. Images come in [0, 1] as `[B, C, H, W]` and are resized and normalised as the model's image
    processor says.
    """

    def __init__(self, pretrained_model_name_or_path: str):
        super().__init__()
        self.model = AutoModel.from_pretrained(pretrained_model_name_or_path).eval().requires_grad_(False)
        processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, backend="pil")
        self.size = (processor.size["height"], processor.size["width"]) if "height" in processor.size else None
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(processor.image_std).view(1, -1, 1, 1))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        images = images.expand(-1, self.mean.shape[1], -1, -1)
        if self.size is not None and self.size != tuple(images.shape[-2:]):
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        states = self.model((images - self.mean) / self.std, output_hidden_states=True).hidden_states
        # Convolutional models give [B, C, h, w], transformers [B, N, C]: the channel axis differs.
        return [F.normalize(state.float(), dim=1 if state.ndim == 4 else -1, eps=1e-6) for state in states]

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.features(target)
        loss = torch.zeros((), device=target.device)
        for got, want in zip(self.features(reconstruction), wanted):
            channels = 1 if got.ndim == 4 else -1
            loss = loss + (got - want).square().sum(channels).mean()
        return loss / len(wanted)


class CodebookUsage:
    """Counts how often each code is used, and re-seeds dead ones with latents of the current batch."""

    def __init__(self, num_codes: int, device: torch.device | str):
        self.counts = torch.zeros(num_codes, device=device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.counts = state["counts"].to(self.counts.device)

    def update(self, codes: torch.Tensor) -> None:
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts))

    def perplexity(self) -> float:
        """exp(entropy) of code use: the number of codes that would be in use if all were used equally."""
        share = self.counts / self.counts.sum().clamp(min=1)
        return torch.special.entr(share).sum().exp().item()

    def used(self) -> int:
        return int((self.counts > 0).sum())

    @torch.no_grad()
    def revive(self, codebook: nn.Parameter, latents: torch.Tensor, generator: torch.Generator) -> int:
        """Replace every code unused since the last reset by a latent vector of the batch; returns how many.

        A vector is chosen with probability proportional to its squared distance from the nearest code (the seeding of
        k-means++, Arthur & Vassilvitskii 2007). Chosen uniformly, most would be background, which needs one code.

        `latents` `[B, D, h, w]` must be the same on every process, so that the replicas of the codebook stay equal.
        """
        dead = (self.counts == 0).nonzero().squeeze(1)
        vectors = latents.movedim(1, -1).reshape(-1, latents.shape[1]).to(codebook.dtype)
        distance = torch.cdist(vectors, codebook).amin(1).square().clamp(min=1e-12)
        repeat = len(dead) > len(vectors)
        if len(dead):
            choice = torch.multinomial(distance.cpu(), len(dead), replacement=repeat, generator=generator)
            codebook[dead] = vectors[choice.to(vectors.device)]
        self.counts.zero_()
        return len(dead)
