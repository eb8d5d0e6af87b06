"""What a transformer learns from a batch: which tokens are hidden, what of an earlier step is reused, how answers are scored."""

from __future__ import annotations

from typing import Any

import torch

from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import TrainingStrategy
from .masking import hide_visible_tokens, mask_tokens, masked_token_loss


class MaskedModelling:
    """
    Hide a share of every sample's tokens, drawn from p(r) for each of them, and ask for the hidden ones: AutoNAT's objective,
    and the base of others.

    Args:
        strategy: p(r).
        label_smoothing: Of the cross-entropy.
    """

    needs_average = (
        False  # whether `averaged`, the model with the averaged weights, has to be set before the first step
    )
    uses_all_parameters = True  # in every step, as DistributedDataParallel wants to know
    averaged: Any = None

    def __init__(self, strategy: TrainingStrategy, label_smoothing: float = 0.1):
        self.strategy, self.label_smoothing = strategy, label_smoothing

    def hide(self, tokens: torch.LongTensor, scheduler: NATScheduler) -> torch.LongTensor:
        """Tokens `[B, N]` with a part of them masked: the transformer's `input_ids`."""
        return mask_tokens(tokens, self.strategy, scheduler)

    def reuse(
        self, input_ids: torch.LongTensor, condition: dict[str, torch.Tensor], scheduler: NATScheduler
    ) -> dict[str, Any]:
        """Further arguments of the transformer that it would have kept from an earlier step of sampling; here none.

        Args:
            input_ids: `[B, N]`, partly masked. condition: Arguments of the transformer that say what is on the images.
        """
        return {}

    def score(
        self, logits: torch.Tensor, tokens: torch.LongTensor, input_ids: torch.LongTensor, scheduler: NATScheduler
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and the share of hidden tokens that are most likely in `logits` `[B, N, K]`; tokens, input_ids: `[B, N]`."""
        hidden = input_ids == scheduler.config.mask_token_id
        return masked_token_loss(logits, tokens, hidden, self.label_smoothing)


class ReuseModelling(MaskedModelling):
    """
    ENAT's objective: one mask ratio for the whole batch, as in a step of sampling, and in a share of the batches the
    features that the averaged model has of a more masked copy.

    Args:
        reuse_prob: That share.
    """

    # A batch without reuse leaves ENAT's reuse projection out, a fully masked one its encoder.
    uses_all_parameters = False

    def __init__(self, strategy: TrainingStrategy, label_smoothing: float = 0.1, reuse_prob: float = 0.5):
        super().__init__(strategy, label_smoothing)
        self.reuse_prob, self.needs_average = reuse_prob, reuse_prob > 0

    def hide(self, tokens: torch.LongTensor, scheduler: NATScheduler) -> torch.LongTensor:
        return mask_tokens(tokens, self.strategy, scheduler, one_ratio=True)

    @torch.no_grad()
    def reuse(
        self, input_ids: torch.LongTensor, condition: dict[str, torch.Tensor], scheduler: NATScheduler
    ) -> dict[str, Any]:
        if torch.rand(()) >= self.reuse_prob:
            return {}
        # What an earlier step of sampling would have encoded, with fewer tokens visible.
        earlier = hide_visible_tokens(input_ids, scheduler.config.mask_token_id)
        return {"cache": self.averaged(earlier, **condition).cache}
