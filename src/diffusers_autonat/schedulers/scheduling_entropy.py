"""Entropy-bounded unmasking: how many tokens a step reveals is what the model is sure of, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F

# Loading a saved pipeline looks `SchedulerMixin` up in the module of its scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from ..strategies import GenerationStrategy, Step, Strategy, whole_steps
from .masked_sampling import column, mask_lowest
from .masked_token_scheduler import Guess, MaskedTokenScheduler


@dataclass(frozen=True)
class EntropyParameters(Step):
    """gamma, tau1 and s of one step, see [`EntropyStrategy`]; numbers, or tensors `[B]`."""

    entropy_bound: float | torch.Tensor
    sampling_temperature: float | torch.Tensor
    guidance_scale: float | torch.Tensor
    is_last: bool = False


@dataclass(frozen=True)
class EntropyStrategy(Strategy):
    """What happens at each step t = 1..T of [`EntropyBoundedScheduler`]; T is the largest number of steps.

    Args:
        entropy_bounds: gamma(t) >= 0, in nats; 0 reveals one token. Without effect at the last step, where nothing stays
            masked.
        sampling_temperatures: tau1(t) >= 0 of the token draw; 0 takes the most likely token.
        guidance_scales: s(t) >= 0 in `cond + s * (cond - uncond)`; 0 is no guidance and costs no unconditional pass.
    """

    entropy_bounds: Sequence[float]
    sampling_temperatures: Sequence[float]
    guidance_scales: Sequence[float]

    step_class = EntropyParameters

    @classmethod
    def constant(
        cls,
        num_inference_steps: int,
        entropy_bound: float,
        sampling_temperature: float = 1.0,
        guidance_scale: float = 3.0,
    ) -> EntropyStrategy:
        """One gamma and one tau1 for all steps, as published; s = k t / T with k the `guidance_scale`, as in cosine."""
        T = whole_steps(num_inference_steps)
        scales = GenerationStrategy.cosine(T, guidance_scale=guidance_scale).guidance_scales
        return cls([entropy_bound] * T, [sampling_temperature] * T, scales)


class EntropyBoundedScheduler(MaskedTokenScheduler):
    r"""
    A step reveals as many tokens as the model is sure of together (Accelerated Sampling from Masked Diffusion Models via
    Entropy Bounded Unmasking, arXiv:2505.24857).

    With the entropies \( H_i = -\sum_v p_i(v) \log p_i(v) \) of \( p_i = \mathrm{softmax}(l_i) \) at the masked places, lowest
    first, a step reveals the largest k with

    \[ \sum_{i \le k} H_i - \max_{i \le k} H_i \le \gamma(t), \]

    where the left side bounds what is lost by drawing the k tokens independently of each other; so at least one. Tokens
    are drawn from \( \mathrm{softmax}(l / \tau_1(t)) \).

    How many steps that takes differs from image to image: T is the largest number. What is still masked in the last step is
    revealed there, and an image that is done stays as it is.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): the strategies to serve, at most one per number of
            steps, each with the fields of [`EntropyStrategy`]. Without any, all steps have
            \( \gamma = 4 \log(\mathrm{mask\_token\_id} ) \): of places that could be any token, five at once.
    """

    strategy_class = EntropyStrategy

    def heuristic(self, num_inference_steps: int) -> EntropyStrategy:
        return EntropyStrategy.constant(num_inference_steps, 4 * log(self.config.mask_token_id))

    def _num_masked(self, num_to_fill: int, parameters: Sequence[EntropyParameters]) -> None:
        return None  # images differ

    def mask_again(self, parameters: EntropyParameters, guess: Guess) -> torch.LongTensor:
        entropy = torch.special.entr(guess.logits.softmax(dim=-1)).sum(dim=-1).nan_to_num()  # [B, N]
        ascending = torch.where(guess.masked, entropy, float("inf")).sort(dim=-1).values
        before = F.pad(ascending.cumsum(dim=-1)[:, :-1], (1, 0))  # sum less the largest: the sum of those before it
        revealed = (before <= column(parameters.entropy_bound, entropy.device)).sum(dim=-1, keepdim=True)  # [B, 1]
        count = guess.masked.sum(dim=-1, keepdim=True) - revealed
        return mask_lowest(guess.tokens, -entropy, guess.masked, count, self.config.mask_token_id)
