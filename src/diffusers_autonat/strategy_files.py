"""Strategies of whatever kind, from dictionaries and files: the authors' YAML, JSON of one strategy, a scheduler's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from . import schedulers  # noqa: F401  # each order brings its kind of strategy
from .messages import shown
from .strategies import GenerationStrategy, Strategy, by_steps, read_json


def strategy_from_dict(values: Any) -> Any:
    """The strategy, of whichever kind has these schedules; of none of them: the error of [`GenerationStrategy`]."""
    for kind in Strategy.__subclasses__():
        if isinstance(values, Mapping) and set(values) == {field.name for field in fields(kind)}:  # type: ignore[arg-type]
            return kind.from_dict(values)
    return GenerationStrategy.from_dict(values)


def read_strategies(path: str | Path) -> list[Any]:
    """
    All strategies of a file, by number of steps: YAML as the AutoNAT authors write it, JSON with a strategy's fields, or the
    `scheduler_config.json` of a search or a pipeline.

    Raises:
        ValueError: The file holds no strategy, or a wrong one; names the file. OSError: It cannot be read.
    """
    if not str(path).endswith(".json"):
        return [GenerationStrategy.from_yaml(path)]
    data = read_json(path)
    try:
        if not isinstance(data, dict) or "strategies" not in data:
            return [strategy_from_dict(data)]
        strategies = [] if data["strategies"] is None else data["strategies"]
        if not isinstance(strategies, list):
            raise ValueError(f"strategies must be a list of strategies, got {shown(strategies)}.")
        stored = by_steps([strategy_from_dict(one) for one in strategies])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not stored:
        raise ValueError(f"{path} is the config of a scheduler that stores no strategy.")
    return [stored[steps] for steps in sorted(stored)]


def read_strategy(path: str | Path, num_inference_steps: int | None = None) -> Any:
    """
    The strategy of a file, see `read_strategies`; of several the one with `num_inference_steps` steps.

    Raises:
        ValueError: As `read_strategies`; or none has that many steps, or there are several and no number is given.
    """
    strategies = by_steps(read_strategies(path))
    if num_inference_steps is None and len(strategies) > 1:
        raise ValueError(
            f"{path} holds strategies for {list(strategies)} steps: choose one with --num-inference-steps."
        )
    if num_inference_steps is not None and num_inference_steps not in strategies:
        raise ValueError(f"{path} holds no strategy for {num_inference_steps} steps, only for {list(strategies)}.")
    return strategies[num_inference_steps or next(iter(strategies))]
