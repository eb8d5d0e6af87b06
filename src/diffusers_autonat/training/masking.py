"""Masked-token modelling: what is hidden from the transformer, and how its answers are scored."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import TrainingStrategy


def mask_tokens(
    input_ids: torch.LongTensor, strategy: TrainingStrategy, scheduler: NATScheduler, one_ratio: bool = False
) -> torch.LongTensor:
    """Hide a share of each sample's tokens `[B, N]`, drawn from p(r) for each of them, or once for all."""
    return scheduler.add_noise(input_ids, strategy.sample(1 if one_ratio else len(input_ids), input_ids.device))


def hide_visible_tokens(input_ids: torch.LongTensor, mask_token_id: int) -> torch.LongTensor:
    """Hide a uniformly drawn share, the same for all samples, of the tokens `[B, N]` that are not masked yet."""
    visible = input_ids != mask_token_id
    share = torch.rand((), device=input_ids.device)
    count = (share * visible.sum(-1, keepdim=True)).round()
    noise = torch.rand(input_ids.shape, device=input_ids.device).masked_fill(~visible, 2.0)
    rank = noise.argsort(dim=-1).argsort(dim=-1)  # of visible tokens among themselves: the others come last
    return torch.where(rank < count, mask_token_id, input_ids)


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
