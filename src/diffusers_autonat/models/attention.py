"""Attention of both transformers: diffusers' dispatcher, and plain products where those are faster."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn


def attend(
    processor: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Multi-head attention of projected queries, by the backend that `processor` was given, so that every registered one can
    be used.

    bfloat16 on a CPU is the exception where no backend was named: two matrix products are faster than torch's fused kernel
    in a training, whose backward pass takes several times as long in the kernel, and everywhere on CPUs without matrix tiles
    (AMX), for which the kernel computes in float32 (`benchmarks/attention.py`).

    Args:
        processor: Attention processor with `_attention_backend` and `_parallel_config`.
        query: `[B, n, D]`. key, value: `[B, m, D]`. heads: H, a divisor of D.
        mask: bool `[B, m]`, True for keys that are seen; None sees all.

    Returns:
        `[B, n, D]`.
    """
    query, key, value = (states.unflatten(-1, (heads, -1)) for states in (query, key, value))  # [B, n or m, H, D/H]
    if mask is not None:
        mask = mask[:, None, None, :]  # [B, 1, 1, m], which every backend takes
    if processor._attention_backend is None and _products_are_faster(query, key):
        hidden_states = plain_attention(query, key, value, mask)
    else:
        hidden_states = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            backend=processor._attention_backend,
            parallel_config=processor._parallel_config,
        )
    return hidden_states.flatten(2)  # [B, n, D]


MOST_SCORES = 2**27  # that plain products may hold at a time, a quarter of a gigabyte in bfloat16


def _products_are_faster(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether `plain_attention` is faster than torch's fused kernel for `[B, n or m, H, d]`."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    batch, positions, heads, _ = query.shape
    return query.requires_grad or (not _has_tiles() and batch * heads * positions * key.shape[1] <= MOST_SCORES)


@cache
def _has_tiles() -> bool:
    """Whether this CPU multiplies bfloat16 matrices by tiles (Intel's AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Softmax attention as two batched products; `[B, n, H, d]` and `[B, m, H, d]` to `[B, n, H, d]`."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # [B, H, n or m, d]
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, H, n, m], the largest tensor here
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2)
