"""The sampler of non-autoregressive (masked-token) transformers, with its strategy as data."""

from __future__ import annotations

import torch

# Loading a saved pipeline looks `SchedulerMixin` up in the module of its scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from ..strategies import StepParameters
from .masked_sampling import column, gumbel_noise, log_confidence, mask_count, mask_lowest
from .masked_token_scheduler import Guess, MaskedTokenScheduler, NATSchedulerOutput, SamplingPlan


__all__ = ["NATScheduler", "NATSchedulerOutput", "SamplingPlan"]


class NATScheduler(MaskedTokenScheduler):
    r"""
    Parallel decoding of masked tokens with one set of parameters per step (AutoNAT, arXiv:2406.05478).

    A step t of T takes logits `l` of all N positions and

    1. draws a token at every masked position from \( \mathrm{softmax}(l / \tau_1(t)) \); known positions keep theirs;
    2. scores it with \( c = \log \mathrm{softmax}(l)[\mathrm{token}] \), without temperature;
    3. masks the \( \lfloor N r(t) \rfloor \) (or so many of a given number to fill) positions with the lowest \( c + \tau_2(t) \cdot \mathrm{Gumbel}(0, 1) \)
       again, at least 1 and fewer than are masked now; at the last step none.

    Tokens that are given are never redrawn and never masked; how many are given may differ from sample to sample.
    Guidance \( l = \mathrm{cond} + s(t) (\mathrm{cond} - \mathrm{uncond}) \) is applied by the pipeline.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): the strategies to serve, at most one per number of
            steps, each with the four fields of [`GenerationStrategy`]. Without any, `GenerationStrategy.cosine` is
            used for every number of steps.
    """

    def mask_again(self, parameters: StepParameters, guess: Guess) -> torch.LongTensor:
        device, bounded = guess.logits.device, parameters.is_bounded
        r, tau2 = column(parameters.mask_ratio, device), column(parameters.remasking_temperature, device)
        gumbel = gumbel_noise(guess.tokens.shape, guess.generator, device)
        score = log_confidence(guess.logits, guess.tokens) + tau2 * gumbel
        count = mask_count(guess.num_to_fill, r, bounded)
        return mask_lowest(guess.tokens, score, guess.masked, count, self.config.mask_token_id, bounded)
