"""What is looked at before anything slow starts, and before anything is saved."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ..loading import warn_of_emulated


TOKENS_PER_CODE = 50  # of a data set; a rule of thumb: the shipped tokenizer had 5,700
DISCRIMINATOR_OPTIONS = ("adversarial_start", "discriminator_hidden_size", "discriminator_learning_rate")
OPINIONS = 10  # losses of the discriminator that are looked at together


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


def require_levels(resolution: int, block_out_channels: Sequence[int], norm_num_groups: int) -> None:
    """
    Refuse a tokenizer whose levels do not fit the images or the groups of its normalisation.

    Raises:
        ValueError: a side cannot be halved at each level but the last, or a number of channels not be divided into the groups;
            says what can.
    """
    factor = 2 ** (len(block_out_channels) - 1)
    if resolution % factor:
        below, above = resolution // factor * factor, -(-resolution // factor) * factor
        fitting = f"{below} or {above}" if below else str(above)
        raise ValueError(
            f"--resolution {resolution} cannot be halved {len(block_out_channels) - 1} times, as the {len(block_out_channels)} "
            f"levels of --block_out_channels do: take {fitting}, or fewer levels."
        )
    undivided = [channels for channels in block_out_channels if channels % norm_num_groups]
    if undivided:
        raise ValueError(
            f"--norm_num_groups {norm_num_groups} does not divide the {undivided[0]} channels of a level: take "
            f"{math.gcd(norm_num_groups, *block_out_channels)}, or other --block_out_channels."
        )


def warn_of_idle_cores(accelerator: Accelerator) -> None:
    """Warn where half of a CPU or more would stand idle: `accelerate launch` gives a process one thread unless told otherwise."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes, threads = accelerator.num_processes, torch.get_num_threads()
    if accelerator.device.type == "cpu" and accelerator.is_main_process and 2 * processes * threads <= cores:
        warnings.warn(
            f"{processes * threads} of {cores} cores are used: start with accelerate launch --num_cpu_threads_per_process "
            f"{cores // processes}, or with OMP_NUM_THREADS={cores // processes}.",
            stacklevel=2,
        )


def warn_of_slow_precision(accelerator: Accelerator, asked_for: str | None) -> None:
    """Warn of float32 that nobody `asked_for` on a CPU whose bfloat16 is faster, and of half precision on one without it."""
    if accelerator.device.type != "cpu" or not accelerator.is_main_process:
        return
    precision = accelerator.mixed_precision
    if precision != "no":
        warn_of_emulated(precision, "cpu", "--mixed_precision no")
    elif asked_for is None and torch.cpu.get_capabilities().get("avx512_bf16"):
        warnings.warn(
            "trains in float32, and this processor multiplies bfloat16 faster: --mixed_precision bf16 takes about half of the time.",
            stacklevel=2,
        )


def warn_of_steps(
    max_steps: int, lr_warmup_steps: int, learning_rate: float, adversarial_start: int | None = None
) -> None:
    """Warn of a training that ends before what it waits for: the full learning rate, or the discriminator."""
    if lr_warmup_steps >= max_steps:
        warnings.warn(
            f"--lr_warmup_steps {lr_warmup_steps} do not end within the {max_steps} steps: the learning rate reaches "
            f"{max_steps / lr_warmup_steps:.0%} of {learning_rate:g} only; take {max(1, max_steps // 20)}, or train longer.",
            stacklevel=2,
        )
    if adversarial_start is not None and adversarial_start >= max_steps:
        warnings.warn(
            f"--adversarial_start {adversarial_start} is not before the end of the {max_steps} steps: the discriminator never "
            f"joins; take {max_steps * 4 // 5}, or --adversarial_weight 0 if that is meant.",
            stacklevel=2,
        )


def warn_of_no_discriminator(adversarial_weight: float, given: Collection[str]) -> None:
    """Warn of options of the discriminator that were `given` to a training without one; a preset may have them."""
    idle = [f"--{name}" for name in DISCRIMINATOR_OPTIONS if name in given]
    if not adversarial_weight and idle:
        warnings.warn(
            f"without effect: {', '.join(idle)}, because --adversarial_weight is 0; give one, such as 0.6, for a discriminator.",
            stacklevel=2,
        )


def require_length(preset: str | None, given: Collection[str]) -> None:
    """
    Refuse `--preset paper` of a tokenizer, for which the papers tell no number of steps, without one.

    Raises:
        ValueError: how long to train is not `given`; one epoch, the default, is no training.
    """
    if preset == "paper" and not {"max_train_steps", "num_train_epochs"} & set(given):
        raise ValueError(
            "--preset paper does not say how long to train, because the papers do not: give --max_train_steps or "
            "--num_train_epochs."
        )


def warn_of_codebook(codebook_size: int, num_images: int, tokens_per_image: int) -> None:
    """Warn of more codes than the images can fill: fewer than `TOKENS_PER_CODE` tokens for each."""
    share = num_images * tokens_per_image // TOKENS_PER_CODE
    if codebook_size > share:
        fitting = max(2, 2 ** int(math.log2(max(2, share))))
        warnings.warn(
            f"--codebook_size {codebook_size} is more than {num_images} images of {tokens_per_image} tokens can fill (fewer than "
            f"{TOKENS_PER_CODE} tokens for each code): many will stay unused; take {fitting}.",
            stacklevel=2,
        )


def warn_of_discriminator(losses: Sequence[float]) -> None:
    """Warn where the latest hinge losses that were logged, `OPINIONS` of them, are those of one that scores all images alike."""
    latest = losses[-OPINIONS:]
    if len(latest) == OPINIONS and sum(latest) / OPINIONS > 0.99:
        warnings.warn(
            "the discriminator scores real images and reconstructions alike, so its pull is noise: stop, and let it join later "
            "(--adversarial_start), when the learning rate has come down to about 1e-4, with --discriminator_learning_rate 1e-4.",
            stacklevel=2,
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
