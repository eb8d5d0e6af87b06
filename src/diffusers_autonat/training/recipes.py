"""How each transformer is trained and sampled from, by the name it has on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..models.transformer_enat import ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from ..strategies import GenerationStrategy
from .objectives import MaskedModelling, ReuseModelling


@dataclass(frozen=True)
class Recipe:
    """
    Args:
        model_class: Of the transformer.
        objective: What it learns from a batch.
        heuristic: The generation strategies of its paper: number of steps -> strategy.
    """

    model_class: type
    objective: type[MaskedModelling]
    heuristic: Callable[..., GenerationStrategy]


RECIPES = {
    "uvit": Recipe(UViTTransformer2DModel, MaskedModelling, GenerationStrategy.cosine),
    "enat": Recipe(ENATTransformer2DModel, ReuseModelling, GenerationStrategy.enat),
}


def recipe_name(pretrained_model_name_or_path: str) -> str:
    """The name in `RECIPES` of a pipeline's transformer.

    Raises:
        ValueError: it is of another class.
    """
    # Any model class reads the file; AutoModel looks for another one once a pipeline has been loaded through it.
    config = UViTTransformer2DModel.load_config(pretrained_model_name_or_path, subfolder="transformer")
    class_name = config.get("_class_name")
    names = {recipe.model_class.__name__: name for name, recipe in RECIPES.items()}
    if class_name not in names:
        raise ValueError(
            f"the transformer of {pretrained_model_name_or_path} is a {class_name}; trained are {', '.join(names)}."
        )
    return names[class_name]


def heuristic_of(pipeline: Any) -> Callable[..., GenerationStrategy]:
    """The heuristic of the paper of a pipeline's transformer; AutoNAT's where that has still to be trained."""
    for recipe in RECIPES.values():
        if pipeline is not None and isinstance(pipeline.transformer, recipe.model_class):
            return recipe.heuristic
    return GenerationStrategy.cosine


def taken_by(function: Callable, options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that `function` has a parameter for: a script offers the options of all transformers."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}
