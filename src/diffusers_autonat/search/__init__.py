"""The search of AutoNAT as Optuna samplers and search spaces; needs `pip install "diffusers-autonat[search]"`."""

try:
    import optuna  # noqa: F401
except ImportError as error:
    raise ImportError('the search needs Optuna: pip install "diffusers-autonat[search]"') from error

from .finite_difference import FiniteDifferenceSampler
from .line_search import GreedyLineSearchSampler
from .spaces import (
    DescentParameter,
    GridParameter,
    generation_params,
    generation_space,
    generation_start,
    generation_strategy,
    suggest,
    training_params,
    training_space,
    training_strategy,
)


__all__ = [
    "DescentParameter",
    "FiniteDifferenceSampler",
    "GreedyLineSearchSampler",
    "GridParameter",
    "generation_params",
    "generation_space",
    "generation_start",
    "generation_strategy",
    "suggest",
    "training_params",
    "training_space",
    "training_strategy",
]
