"""How many passes of a transformer images took: the unit of time, as images are the unit of what is learnt."""

from __future__ import annotations

from typing import Any

import torch


class PassCounter:
    """
    Counts the images that go through a transformer, those of the unconditional pass too. A first step that images of one
    class share is one pass, and one that is kept is none.

    Args:
        transformer: Called with tokens `[B, N]` first. It is watched for as long as it lives.
    """

    def __init__(self, transformer: torch.nn.Module):
        self.count = 0
        transformer.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, transformer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.count += len(args[0] if args else next(iter(kwargs.values())))
