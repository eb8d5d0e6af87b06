"""The search of AutoNAT as Optuna samplers and search spaces; needs `pip install "diffusers-autonat[search]"`."""

try:
    import optuna  # noqa: F401
except ImportError as error:
    raise ImportError('the search needs Optuna: pip install "diffusers-autonat[search]"') from error

from .confirm import Scored, confirm_trials, score_candidates
from .finite_difference import FiniteDifferenceSampler
from .generation import Found, search_generation
from .interface import SamplerKind, SharedSampler
from .line_search import GreedyLineSearchSampler
from .objective import EvaluatorScore, StrategyObjective, strategy_of
from .optuna_samplers import ResumableSampler
from .report import save_strategy, save_trials
from .samplers import make_sampler
from .spaces import (
    DescentParameter,
    GridParameter,
    generation_params,
    generation_space,
    generation_start,
    generation_strategy,
    resample_strategy,
    suggest,
    training_params,
    training_space,
    training_strategy,
)
from .strategy_spaces import AnyStepsSpace, CurveSpace, FixedStepsSpace
from .study import open_storage, open_study, run_study
from .training import CandidateTrainer, search_training


__all__ = [
    "AnyStepsSpace",
    "CandidateTrainer",
    "CurveSpace",
    "DescentParameter",
    "EvaluatorScore",
    "FiniteDifferenceSampler",
    "FixedStepsSpace",
    "Found",
    "GreedyLineSearchSampler",
    "GridParameter",
    "ResumableSampler",
    "SamplerKind",
    "Scored",
    "SharedSampler",
    "StrategyObjective",
    "confirm_trials",
    "generation_params",
    "generation_space",
    "generation_start",
    "generation_strategy",
    "make_sampler",
    "open_storage",
    "open_study",
    "resample_strategy",
    "run_study",
    "save_strategy",
    "save_trials",
    "score_candidates",
    "search_generation",
    "search_training",
    "strategy_of",
    "suggest",
    "training_params",
    "training_space",
    "training_strategy",
]
