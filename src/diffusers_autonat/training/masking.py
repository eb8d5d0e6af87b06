"""Masked-token modelling: what is hidden from the transformer, and how its answers are scored."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import TrainingStrategy


def mask_tokens(input_ids: torch.LongTensor, strategy: TrainingStrategy, scheduler: NATScheduler) -> torch.LongTensor:
    """Hide a share of each sample's tokens `[B, N]`, drawn from p(r)."""
    return scheduler.add_noise(input_ids, strategy.sample(len(input_ids), input_ids.device))


def drop_labels(class_labels: torch.LongTensor, null_class: int, probability: float) -> torch.LongTensor:
    """Replace labels `[B]` by the null class at random, so that the model learns unconditional generation too."""
    dropped = torch.rand(len(class_labels), device=class_labels.device) < probability
    return class_labels.masked_fill(dropped, null_class)


def masked_token_loss(
    logits: torch.Tensor, targets: torch.LongTensor, masked: torch.BoolTensor, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over the masked positions, and the share of them whose most likely token is right.

    Args:
        logits: `[B, N, K]`. targets, masked: `[B, N]`.
    """
    targets = targets.masked_fill(~masked, -100)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=label_smoothing)
    accuracy = ((logits.detach().argmax(-1) == targets) & masked).sum() / masked.sum()
    return loss, accuracy
