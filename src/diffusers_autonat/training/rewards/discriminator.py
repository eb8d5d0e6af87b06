"""Reward by a discriminator that learns beside the policy, AdaNAT's way: what it takes for real is worth more."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from tqdm.auto import tqdm

from ...metrics import FeatureExtractor
from ...metrics.sources import image_samples
from ..prepared import plain_model
from .base import Reward


class FeatureDiscriminator(nn.Module):
    """
    Whether features are of a real image of their class: two layers with a residual one between, all of spectral norm 1
    (arXiv:1802.05957), and the class by projection (arXiv:1802.05637).

    Args:
        mean, std: Of the features of real images `[D]`: what is put in is standardised.
        num_classes: 1 where classes are not known.
        hidden_size: Width.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, num_classes: int, hidden_size: int = 256):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))
        self.linear_in = spectral_norm(nn.Linear(len(mean), hidden_size))
        self.linear_mid = spectral_norm(nn.Linear(hidden_size, hidden_size))
        self.linear_out = spectral_norm(nn.Linear(hidden_size, 1))
        self.class_embed = spectral_norm(nn.Embedding(num_classes, hidden_size))

    def forward(self, features: Tensor, class_labels: Tensor) -> Tensor:
        """Features `[B, D]` of images of classes `[B]` to logits `[B]`, positive for real."""
        hidden = F.leaky_relu(self.linear_in((features - self.mean) / self.std), 0.2)  # [B, H]
        hidden = hidden + F.leaky_relu(self.linear_mid(hidden), 0.2)  # [B, H]
        return self.linear_out(hidden).squeeze(-1) + (self.class_embed(class_labels) * hidden).sum(dim=-1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of logits, the mean over real images plus that over generated ones."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


class DiscriminatorReward(Reward):
    """
    The sigmoid of a `FeatureDiscriminator`'s logit. It learns from real images and from those that were rewarded.

    AdaNAT's discriminator has heads on the tokens of several layers of DINO, and sees new images in each of its steps; this
    one sees the pooled features of any vision model, and the images of the update once more.

    Args:
        real_features, real_labels: Of real images, `[M, D]` and `[M]`; labels None where they have none.
        num_classes: Of the pipeline.
        learning_rate, steps, batch_size: Of Adam (0.5, 0.999), for each update, and of each step and process.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        extractor: FeatureExtractor,
        real_features: Tensor,
        real_labels: Tensor | None,
        num_classes: int,
        learning_rate: float = 1e-4,
        steps: int = 5,
        batch_size: int = 128,
    ):
        super().__init__(accelerator, extractor)
        self.steps, self.batch_size, self.has_labels = steps, batch_size, real_labels is not None
        self.real_features = real_features
        self.real_labels = torch.zeros(len(real_features), dtype=torch.long) if real_labels is None else real_labels
        model: nn.Module = FeatureDiscriminator(
            real_features.mean(dim=0), real_features.std(dim=0), num_classes if self.has_labels else 1
        )
        optimizer = torch.optim.Adam(model.parameters(), learning_rate, betas=(0.5, 0.999))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def __call__(self, seen: list[Any], class_labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        self.model.eval()  # spectral norms are not estimated further
        with torch.no_grad():
            scores = plain_model(self.accelerator, self.model)(torch.cat(seen), self._known(class_labels)).sigmoid()
        return scores, {"fake_score": self.accelerator.gather(scores).mean().item()}

    def learn(self, seen: list[Any], class_labels: Tensor) -> dict[str, float]:
        features, labels, device = torch.cat(seen), self._known(class_labels), self.accelerator.device
        self.model.train()
        sums = torch.zeros(2, device=device)  # loss, accuracy
        for _ in range(self.steps):
            fake = torch.randint(len(features), (self.batch_size,), device=device)
            real = torch.randint(len(self.real_features), (self.batch_size,))
            both = torch.cat([self.real_features[real].to(device), features[fake]])
            classes = torch.cat([self.real_labels[real].to(device), labels[fake]])
            logits = self.model(both, classes)
            loss = discriminator_loss(*logits.chunk(2))
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            right = torch.cat([logits[: self.batch_size] > 0, logits[self.batch_size :] < 0]).float().mean()
            sums += torch.stack([loss.detach(), right]) / self.steps
        loss_value, accuracy = self.accelerator.reduce(sums, "mean").tolist()
        return {"discriminator_loss": loss_value, "discriminator_accuracy": accuracy}

    def _known(self, class_labels: Tensor) -> Tensor:
        class_labels = class_labels.to(self.accelerator.device)
        return class_labels if self.has_labels else torch.zeros_like(class_labels)

    def parts(self) -> dict[str, Any]:
        return {"discriminator": self.model, "discriminator_optimizer": self.optimizer}


@torch.no_grad()
def features_of_images(
    source: str, extractor: FeatureExtractor, num_images: int, resolution: int, progress: bool = False
) -> tuple[Tensor, Tensor | None]:
    """
    Features `[M, D]` of real images on the CPU, and their classes `[M]`, None where some have none.

    Args:
        source: As `metrics.sources.image_samples` takes it.
        num_images: About so many are taken, evenly spaced, since folders are sorted by class; M is up to twice as many.
        resolution: Side that images are resized and cropped to.
    """
    name, samples = image_samples(source, resolution)
    features, labels, batch, stride = list[Tensor](), list[int | None](), list[Tensor](), 1

    def extract() -> None:
        if batch:
            features.extend(extractor(torch.stack(batch))[0].cpu())
            batch.clear()

    for index, (image, label) in enumerate(tqdm(samples, desc=f"features of {name}", disable=not progress)):
        if index % stride:
            continue
        batch.append(image)
        labels.append(label)
        if len(batch) == extractor.batch_size:
            extract()
        if len(labels) > 2 * num_images:
            extract()
            features, labels, stride = features[::2], labels[::2], 2 * stride
    extract()
    if not features:
        raise ValueError(f"{name} holds no images.")
    return torch.stack(features), None if None in labels else torch.tensor(labels)
