"""How the processes of a training part."""

from __future__ import annotations

import atexit
import gc

import torch.distributed as dist
from accelerate import Accelerator


_groups: list[dist.ProcessGroup] = []


def end_training(accelerator: Accelerator) -> None:
    """As accelerate's, for a training that must not hang when it has already saved everything.

    Where a `DistributedDataParallel` is the last to hold the process group, freeing it waits for gloo's threads while Python's
    lock is held, and one of them may be waiting for that lock (https://github.com/pytorch/pytorch/issues/56297). A reference
    from Python is freed without the lock: so one is kept, and freed last.
    """
    if dist.is_available() and dist.is_initialized():
        if not _groups:
            atexit.register(free_process_groups)
        _groups.append(dist.group.WORLD)
    accelerator.end_training()


def free_process_groups() -> None:
    """What `end_training` has kept, after the models."""
    gc.collect()
    _groups.clear()
