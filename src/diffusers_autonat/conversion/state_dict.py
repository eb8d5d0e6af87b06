"""Renaming a released checkpoint's tensors, with every tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch
    import torch.nn as nn


def without(state_dict: dict[str, torch.Tensor], patterns: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The tensors whose names match none of `patterns`, such as `*position_ids`."""
    return {
        name: tensor
        for name, tensor in state_dict.items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def grid_size(num_positions: int) -> int:
    """Side of a square grid with `num_positions` cells."""
    side = round(num_positions**0.5)
    if side**2 != num_positions:
        raise ValueError(f"{num_positions} position embeddings do not make a square grid.")
    return side


def count_blocks(state_dict: dict[str, torch.Tensor], prefix: str) -> int:
    """One more than the highest block number under `prefix`; a gap below it is found as missing tensors later."""
    numbers = [name.removeprefix(prefix).split(".")[0] for name in state_dict if name.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def read_sizes(state_dict: dict[str, torch.Tensor], names: list[str], model_name: str) -> list[torch.Size]:
    """Shapes of the matrices that tell a model's sizes; `ValueError` if one of them is missing or not a matrix."""
    missing = [name for name in names if name not in state_dict]
    if missing:
        found = sorted({name.split(".")[0] for name in state_dict})
        raise ValueError(f"Not {model_name} weights: {missing} are missing. The names found begin with {found}.")
    wrong = [f"{name} {list(state_dict[name].shape)}" for name in names if state_dict[name].ndim != 2]
    if wrong:
        raise ValueError(f"Not {model_name} weights: {wrong} should be matrices.")
    return [state_dict[name].shape for name in names]


def check_shapes(state_dict: dict[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], model_name: str) -> None:
    """`ValueError` that lists all tensors that are missing, not expected, or not of their shape in `shapes`."""
    problems = [f"missing: {name}" for name in shapes if name not in state_dict]
    problems += [f"not expected: {name}" for name in state_dict if name not in shapes]
    problems += [
        f"shape: {name} is {list(state_dict[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in state_dict and tuple(state_dict[name].shape) != tuple(shape)
    ]
    if problems:
        raise ValueError(f"These are not the weights of {model_name}:\n  " + "\n  ".join(problems))


def rename(
    state_dict: dict[str, torch.Tensor],
    model: nn.Module,
    names: dict[str, list[str]],
    shapes: Mapping[str, tuple[int, ...]],
    model_name: str,
) -> dict[str, torch.Tensor]:
    """
    State dict for `model` (may be on the meta device) out of a released one.

    Args:
        names: Released name -> the names in `model` it is split into, along the first dimension and in equal parts.
        shapes: Released shapes that are not the model's, by released name; they only differ by dimensions of size 1.
        model_name: For the error message.

    Raises:
        ValueError: Lists all tensors that are missing, not expected, or of another shape than the sizes demand.
    """
    target = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {name: (target[parts[0]][0] * len(parts), *target[parts[0]][1:]) for name, parts in names.items()}
    check_shapes(state_dict, {**expected, **shapes}, model_name)
    converted = {}
    for name, parts in names.items():
        for part, tensor in zip(parts, state_dict[name].chunk(len(parts))):
            converted[part] = tensor.reshape(target[part]).clone()  # cloned: parts that share memory cannot be saved
    return converted
