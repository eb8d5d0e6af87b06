"""The maths of a step of masked-token sampling, as functions of tensors: noise, draw, counts, re-masking.

Shapes: B samples of N tokens from a codebook of K entries; the id K is the mask.
"""

from __future__ import annotations

from math import isqrt

import torch


def gumbel_noise(
    shape: tuple[int, ...], generator: torch.Generator | list[torch.Generator] | None, device: torch.device
) -> torch.Tensor:
    """Standard Gumbel noise; one generator for the batch, or a list with one for each sample of it.

    Drawn on the generator's device and then moved, so that a CPU generator gives the same noise everywhere.
    """
    if isinstance(generator, list):
        return torch.cat([gumbel_noise((1, *shape[1:]), one, device) for one in generator])
    noise = torch.empty(shape, device=device if generator is None else generator.device)
    return noise.exponential_(generator=generator).log_().neg_().to(device)


def column(value: float | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A parameter of a step as float32 `[1, 1]`, or `[B, 1]` where every sample has its own."""
    if isinstance(value, torch.Tensor):
        return value.to(device, torch.float32).view(-1, 1)
    return torch.full((1, 1), value, dtype=torch.float32, device=device)


def draw_tokens(logits: torch.Tensor, temperature: torch.Tensor, gumbel: torch.Tensor) -> torch.LongTensor:
    """Draw from softmax(logits / temperature) by the Gumbel-max rule, which is exact and holds at temperature 0 too."""
    return torch.addcmul(logits, temperature, gumbel).argmax(-1)


def log_confidence(logits: torch.Tensor, tokens: torch.LongTensor) -> torch.Tensor:
    """log softmax(logits)[token] `[B, N]`; for known tokens, which may be the mask id, something that is not used."""
    chosen = tokens.clamp(max=logits.shape[-1] - 1)[..., None]
    return logits.gather(-1, chosen).squeeze(-1) - logits.logsumexp(-1)


def mask_count(num_tokens: int | torch.Tensor, mask_ratio: torch.Tensor, is_bounded: bool = True) -> torch.Tensor:
    """m = floor(N r), at least 1; a product that is whole but for float32 rounding (0.7 * 10) counts as whole.

    Not bounded: at most N - 1.
    """
    count = (num_tokens * (mask_ratio + 2e-7)).floor()
    return count.clamp(min=1) if is_bounded else count.clamp(max=num_tokens - 1)


def grid_side(num_tokens: int) -> int:
    """Side of the square grid that so many tokens fill row by row.

    Raises:
        ValueError: they fill none, and this order is one of places on a grid.
    """
    side = isqrt(num_tokens)
    if side**2 != num_tokens:
        raise ValueError(f"{num_tokens} tokens fill no square grid, whose places this order goes through.")
    return side


def mask_lowest(
    tokens: torch.LongTensor,
    score: torch.Tensor,
    masked: torch.BoolTensor,
    count: torch.Tensor,
    mask_token_id: int,
    is_bounded: bool = True,
) -> torch.LongTensor:
    """Mask the `count` positions with the lowest score again, of those that are `masked` now, and fewer than these.

    So every step reveals something, and a given token is never masked. Not bounded: as many as these at most. All
    `[B, N]` but `count`, `[B, 1]` or `[1, 1]`.
    """
    # Whatever the scores are, NaN and infinity too: those of masked tokens are finite, so given tokens rank last.
    score = torch.where(masked, score.nan_to_num(), float("inf"))
    count = torch.minimum(count, masked.sum(-1, keepdim=True) - int(is_bounded))
    rank = score.argsort(dim=-1).argsort(dim=-1)
    return torch.where(rank < count, mask_token_id, tokens)
