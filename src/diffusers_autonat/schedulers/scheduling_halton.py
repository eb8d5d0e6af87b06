"""The order of Halton-MaskGIT: places spread evenly over the grid, whatever the model is confident of."""

from __future__ import annotations

from functools import lru_cache
from math import acos, pi

import torch

# Loading a saved pipeline looks `SchedulerMixin` up in the module of its scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from ..strategies import GenerationStrategy, StepParameters
from .masked_sampling import column, grid_side, mask_count, mask_lowest
from .masked_token_scheduler import Guess, MaskedTokenScheduler


class HaltonScheduler(MaskedTokenScheduler):
    r"""
    Tokens are revealed in the order of a low-discrepancy sequence (Halton Scheduler for Masked Generative Image
    Transformer, ICLR 2025, arXiv:2503.17076).

    The i-th point, i = 1, 2, ..., of the two-dimensional Halton sequence has the row \( \phi_2(i) \) and the column
    \( \phi_3(i) \), where \( \phi_b(i) = \sum_k d_k b^{-k-1} \) mirrors the digits \( d_k \) of i in base b at the point.
    Scaled to the grid, the points name its places; each place counts where it comes first. A step draws from
    \( \mathrm{softmax}(l / \tau_1(t)) \) as [`NATScheduler`] does, and masks those \( \lfloor N r(t) \rfloor \) of the masked
    places again that come last, at least 1 and fewer than are masked. So tokens of one step lie far apart, and there is
    neither confidence nor noise in the choice: \( \tau_2 \) has no effect.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): see [`NATScheduler`]. Without any, the paper's:
            \( r = \frac{2}{\pi} \arccos(t / T) \) and \( \tau_1 = 1 \), with the guidance of `GenerationStrategy.cosine`.
    """

    def heuristic(self, num_inference_steps: int) -> GenerationStrategy:
        T = num_inference_steps
        return GenerationStrategy(
            mask_ratios=[2 / pi * acos(t / T) for t in range(1, T + 1)],
            sampling_temperatures=[1.0] * T,
            remasking_temperatures=[0.0] * T,
            guidance_scales=GenerationStrategy.cosine(T).guidance_scales,
        )

    def mask_again(self, parameters: StepParameters, guess: Guess) -> torch.LongTensor:
        device, bounded = guess.logits.device, parameters.is_bounded
        rank = halton_rank(grid_side(guess.tokens.shape[-1]), device).expand_as(guess.tokens)
        count = mask_count(guess.num_to_fill, column(parameters.mask_ratio, device), bounded)
        return mask_lowest(guess.tokens, -rank, guess.masked, count, self.config.mask_token_id, bounded)


def radical_inverse(index: int, base: int) -> float:
    """The digits of a number mirrored at the point: `phi_b(i)`, in [0, 1)."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator / denominator


@lru_cache(maxsize=16)
def halton_places(side: int) -> tuple[int, ...]:
    """The places of a grid, numbered row by row, in the order of the Halton sequence."""
    places: dict[int, None] = {}  # a set that keeps its order
    index = 0
    while len(places) < side**2:
        index += 1
        row, col = (int(radical_inverse(index, base) * side) for base in (2, 3))
        places[row * side + col] = None
    return tuple(places)


@lru_cache(maxsize=16)
def halton_rank(side: int, device: torch.device) -> torch.Tensor:
    """When each place of a grid is revealed, float32 `[side * side]`; moved to a device once."""
    return torch.tensor(halton_places(side)).argsort().float().to(device)
