"""What is looked at before anything slow starts, and before anything is saved."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn


def writable_folder(path: str | Path) -> Path:
    """Make the folder, and prove that files can be written to it; an OSError names it where they cannot."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"written")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def require_memory(build: Callable[[], nn.Module], copies: int = 4) -> None:
    """
    Refuse a model that cannot be trained in the memory that there is, before it is built.

    Args:
        build: Makes it; called on the meta device, where it takes no memory.
        copies: Of the weights, in float32: with gradients and Adam's two averages they are four.

    Raises:
        ValueError: it takes more than the GPUs of all processes have together, or this machine's memory without one.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build().parameters())
    if torch.cuda.is_available():
        there = torch.cuda.get_device_properties(0).total_memory * int(os.environ.get("WORLD_SIZE", 1))
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    needed = 4 * parameters * copies
    if needed > there:
        raise ValueError(
            f"a model of these sizes has {parameters:,} parameters, which take {needed / 2**30:,.0f} GiB with gradients and "
            f"optimiser; there are {there / 2**30:,.0f} GiB: choose smaller ones."
        )


def require_finite(losses: Mapping[str, float], step: int) -> None:
    """
    Stop a training that has gone wrong, from the numbers that are logged anyway: it costs no wait for the device.

    Raises:
        ValueError: a loss is infinite or no number; says which and at which step.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} at step {step}: lower --learning_rate or use bf16, and resume the last checkpoint."
            )


def require_finite_weights(model: nn.Module, step: int) -> None:
    """
    To be called before weights are saved.

    Raises:
        ValueError: some are not finite; names the first and the step.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite at step {step}: nothing was saved; lower --learning_rate.")


def forget_folder(model: nn.Module) -> None:
    """Of the folder that a model was loaded from, its config keeps the name alone; an id on the Hub stays."""
    name = getattr(model.config, "_name_or_path", None)
    if name and (os.path.isabs(name) or Path(name).exists()):
        model.register_to_config(_name_or_path=Path(name).resolve().name)
