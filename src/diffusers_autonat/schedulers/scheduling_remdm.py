"""Remasking diffusion: tokens that were revealed may be masked again, and drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Loading a saved pipeline looks `SchedulerMixin` up in the module of its scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from ..strategies import GenerationStrategy, Step, Strategy
from .masked_sampling import column, gumbel_noise, mask_count, mask_lowest
from .masked_token_scheduler import Guess, MaskedTokenScheduler


@dataclass(frozen=True)
class ReMDMParameters(Step):
    """r, tau1, eta and s of one step, see [`ReMDMStrategy`]; numbers, or tensors `[B]`."""

    mask_ratio: float | torch.Tensor
    sampling_temperature: float | torch.Tensor
    remasking_rate: float | torch.Tensor
    guidance_scale: float | torch.Tensor
    is_last: bool = False


@dataclass(frozen=True)
class ReMDMStrategy(Strategy):
    """What happens at each step t = 1..T of [`ReMDMScheduler`].

    Args:
        mask_ratios: r(t), share of all tokens that is masked after the step; in [0, 1], the last is 0.
        sampling_temperatures: tau1(t) >= 0 of the token draw; 0 takes the most likely token.
        remasking_rates: eta(t) in [0, 1], the share of the largest possible sigma; 0 masks no revealed token again. Without
            effect at the last step.
        guidance_scales: s(t) >= 0 in `cond + s * (cond - uncond)`; 0 is no guidance and costs no unconditional pass.
    """

    mask_ratios: Sequence[float]
    sampling_temperatures: Sequence[float]
    remasking_rates: Sequence[float]
    guidance_scales: Sequence[float]

    step_class = ReMDMParameters

    def __post_init__(self):
        super().__post_init__()
        for t, rate in enumerate(self.remasking_rates):
            if rate > 1:
                raise ValueError(f"remasking_rates[{t}] = {rate} must be in [0, 1].")

    @classmethod
    def cosine(
        cls,
        num_inference_steps: int,
        sampling_temperature: float = 1.0,
        remasking_rate: float = 0.05,
        guidance_scale: float = 3.0,
    ) -> ReMDMStrategy:
        """r, tau1 and s of `GenerationStrategy.cosine`, and one eta for all steps."""
        like = GenerationStrategy.cosine(num_inference_steps, sampling_temperature, guidance_scale=guidance_scale)
        rates = [remasking_rate] * like.num_inference_steps
        return cls(like.mask_ratios, like.sampling_temperatures, rates, like.guidance_scales)


class ReMDMScheduler(MaskedTokenScheduler):
    r"""
    Mistakes can be taken back: a step masks some revealed tokens again (ReMDM: Remasking Discrete Diffusion Models with
    Inference-Time Scaling, NeurIPS 2025, arXiv:2503.00307, its rescaled schedule).

    With \( \alpha_t \) the share that is revealed before a step and \( \alpha_s = 1 - r(t) \) that after it, revealed tokens go
    back to the mask with

    \[ \sigma = \eta(t) \min(1, (1 - \alpha_s) / \alpha_t), \]

    and masked ones are revealed with \( (\alpha_s - (1 - \sigma) \alpha_t) / (1 - \alpha_t) \), drawn from
    \( \mathrm{softmax}(l / \tau_1(t)) \): so that the share revealed is \( \alpha_s \) whatever \( \sigma \). Here counts vary as
    little as they can where the paper's are binomial: of R revealed tokens \( \sigma R \) are masked, rounded up or down so that
    the mean is this, and chosen by chance; and so many of the masked ones stay masked, by chance too, that
    \( \lfloor N r(t) \rfloor \) are after the step, at least 1 and fewer than before. With \( \eta = 0 \) it is the order of
    [`RandomScheduler`].

    Tokens that are given are never masked: `step` is told which these are.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): the strategies to serve, at most one per number of
            steps, each with the fields of [`ReMDMStrategy`]. Without any, `ReMDMStrategy.cosine` is used.
    """

    strategy_class = ReMDMStrategy
    takes_back = True

    def heuristic(self, num_inference_steps: int) -> ReMDMStrategy:
        return ReMDMStrategy.cosine(num_inference_steps)

    def _num_masked(self, num_to_fill: int, parameters: Sequence[ReMDMParameters]) -> None:
        # The counts are known, but who is told them takes tokens that were revealed once for revealed.
        return None

    def mask_again(self, parameters: ReMDMParameters, guess: Guess) -> torch.LongTensor:
        device, mask_token_id = guess.logits.device, self.config.mask_token_id
        r, eta = column(parameters.mask_ratio, device), column(parameters.remasking_rate, device)
        revealed = ~guess.masked if guess.given is None else ~guess.masked & ~guess.given
        masked_before, revealed_before = (one.sum(dim=-1, keepdim=True) for one in (guess.masked, revealed))  # [B, 1]
        after = torch.minimum(mask_count(guess.num_to_fill, r), masked_before - 1).clamp(min=0)
        # Of F tokens to fill, (1 - alpha_s) / alpha_t is F r / R.
        sigma = eta * (after / revealed_before.clamp(min=1)).clamp(max=1)
        mean = sigma * revealed_before  # of how many go back; at most `after`

        size, num_tokens = guess.tokens.shape
        noise, last = gumbel_noise((size, num_tokens + 1), guess.generator, device).split([num_tokens, 1], dim=-1)
        chance = (-last).exp().neg().exp()  # the distribution function of what was drawn is uniform
        whole = (mean + 1e-4).floor()  # whole but for rounding counts as whole
        back = whole + (mean - whole > chance)
        tokens = mask_lowest(guess.tokens, noise, revealed, back, mask_token_id, is_bounded=False)
        return mask_lowest(tokens, noise, guess.masked, after - back, mask_token_id)
