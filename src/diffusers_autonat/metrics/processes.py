"""The processes that share an evaluation."""

from __future__ import annotations

import torch.distributed as dist


def process_rank() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) where torch.distributed is not in use."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def wait_for_all() -> None:
    """Until every process has come here."""
    if process_rank()[1] > 1:
        dist.barrier()
