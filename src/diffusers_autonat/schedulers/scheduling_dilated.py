"""The order of dilated groups: tokens that are revealed together are no neighbours."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

# Loading a saved pipeline looks `SchedulerMixin` up in the module of its scheduler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from ..strategies import GenerationStrategy, StepParameters
from .masked_sampling import column, grid_side, mask_count, mask_lowest
from .masked_token_scheduler import Guess, MaskedTokenScheduler


class DilatedScheduler(MaskedTokenScheduler):
    r"""
    Tokens of one step are drawn independently of each other, which is most wrong for neighbours: reveal them in
    different steps (Plan for Speed: Dilated Scheduling for Masked Diffusion Language Models, arXiv:2506.19037, for texts;
    the form in two dimensions is ours).

    Places go through the grid with ever smaller distances, in the order of ordered dithering: rank
    \( \sum_k (2 (x_k \oplus y_k) + y_k) 4^{-k} \) with the binary digits \( x_k, y_k \), lowest first, of column and row (k = 0
    for the lowest, which differ between neighbours). The first half are the places of one colour of a chessboard, the
    other half those of the other.

    A step draws from \( \mathrm{softmax}(l / \tau_1(t)) \) as [`NATScheduler`] does. It reveals all but
    \( \lfloor N r(t) \rfloor \) of the masked places, at least 1 and not the last: of the first colour by rank, then places
    of the second that touch none of the first's, so that no two tokens of a step share an edge. Where there are too few of
    both, it begins with the second colour; where that gives too few as well, with the one that gives more, and then some touch.
    \( \tau_2 \) has no effect.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): see [`NATScheduler`].
    """

    def heuristic(self, num_inference_steps: int) -> GenerationStrategy:
        return GenerationStrategy.cosine(num_inference_steps, remasking_temperature=0.0)

    def mask_again(self, parameters: StepParameters, guess: Guess) -> torch.LongTensor:
        device, bounded = guess.logits.device, parameters.is_bounded
        side = grid_side(guess.tokens.shape[-1])
        rank, odd = dilated_order(side, device)
        count = mask_count(guess.num_to_fill, column(parameters.mask_ratio, device), bounded)
        left = guess.masked.sum(dim=-1, keepdim=True)  # [B, 1]
        revealed = (left - torch.minimum(count, left - int(bounded))).clamp(min=0)  # [B, 1]
        # Beginning with either colour: 0 for its places, 1 for others, 2 for those of them that touch; how many do not.
        groups = [
            (~colour).int() * (1 + touching(guess.masked & colour, side).int()) for colour in (~odd, odd)
        ]  # [B, N]
        apart = [(guess.masked & (group < 2)).sum(dim=-1, keepdim=True) for group in groups]  # [B, 1]
        begins_odd = (apart[0] < revealed) & (apart[1] > apart[0])
        score = -(rank + torch.where(begins_odd, groups[1], groups[0]) * rank.numel())
        return mask_lowest(guess.tokens, score, guess.masked, count, self.config.mask_token_id, bounded)


def touching(places: torch.BoolTensor, side: int) -> torch.BoolTensor:
    """Which places of a grid share an edge with one of these, `[B, N]`."""
    grid = F.pad(places.view(-1, side, side), (1, 1, 1, 1))
    rows, columns = grid[:, :, 1:-1], grid[:, 1:-1]
    return (rows[:, :-2] | rows[:, 2:] | columns[..., :-2] | columns[..., 2:]).flatten(1)


@lru_cache(maxsize=16)
def dilated_order(side: int, device: torch.device) -> tuple[torch.Tensor, torch.BoolTensor]:
    """Rank of each place of a grid, float32 `[side * side]`, and whether it is of the second colour; moved once."""
    row, col = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    bits = max((side - 1).bit_length(), 1)
    value = torch.zeros_like(row)
    for k in range(bits):
        x, y = col >> k & 1, row >> k & 1
        value += (2 * (x ^ y) + y) << 2 * (bits - 1 - k)
    rank = value.flatten().argsort().argsort().float()
    return rank.to(device), ((row + col) % 2 == 1).flatten().to(device)
