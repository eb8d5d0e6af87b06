"""The order without a preference: which masked tokens a step reveals is chance."""

from __future__ import annotations

import torch

# Loading a saved pipeline looks `SchedulerMixin` up in the module of its scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from ..strategies import GenerationStrategy, StepParameters
from .masked_sampling import column, gumbel_noise, mask_count, mask_lowest
from .masked_token_scheduler import Guess, MaskedTokenScheduler


class RandomScheduler(MaskedTokenScheduler):
    r"""
    Tokens are revealed in random order, as the reverse process of absorbing diffusion does (D3PM, NeurIPS 2021,
    arXiv:2107.03006): what orders by confidence, place or entropy are to be compared with.

    A step draws from \( \mathrm{softmax}(l / \tau_1(t)) \) as [`NATScheduler`] does, and masks \( \lfloor N r(t) \rfloor \) of
    the masked places again, at least 1 and fewer than are masked, each subset being equally likely. That is
    [`NATScheduler`] with \( \tau_2 \to \infty \); here \( \tau_2 \) has no effect.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): see [`NATScheduler`].
    """

    def heuristic(self, num_inference_steps: int) -> GenerationStrategy:
        return GenerationStrategy.cosine(num_inference_steps, remasking_temperature=0.0)

    def mask_again(self, parameters: StepParameters, guess: Guess) -> torch.LongTensor:
        device, bounded = guess.logits.device, parameters.is_bounded
        noise = gumbel_noise(guess.tokens.shape, guess.generator, device)
        count = mask_count(guess.num_to_fill, column(parameters.mask_ratio, device), bounded)
        return mask_lowest(guess.tokens, noise, guess.masked, count, self.config.mask_token_id, bounded)
