"""A whole search for a generation strategy: study, trials, confirmation. What the scripts and experiments are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import Study

from ..strategies import GenerationStrategy
from .confirm import Scored, best_trials, confirm_trials
from .interface import SharedSampler
from .objective import Score, StrategyObjective, StrategySpace, strategy_of
from .study import open_study, run_study


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    Args:
        study: With all trials.
        candidates: What was confirmed, best first; without a confirmation the best trials with the values they had.
        confirmed: Whether those values are of fresh noise.
    """

    study: Study
    candidates: list[Scored[GenerationStrategy]]
    confirmed: bool


def search_generation(
    storage: BaseStorage,
    name: str,
    identity: Mapping[str, Any],
    space: StrategySpace,
    score: Score,
    sampler: SharedSampler,
    num_trials: int,
    cost: Callable[[GenerationStrategy], float] | None = None,
    pruner: BasePruner | None = None,
    confirm_score: Score | None = None,
    confirm_identity: Mapping[str, Any] | None = None,
    confirm_top: int = 5,
    also: Mapping[str, GenerationStrategy] | None = None,
    stored: Mapping[str, GenerationStrategy] | None = None,
    progress: bool = True,
) -> Found:
    """Search, then confirm the winners on fresh noise. Call it again, anywhere, to resume or to help.

    Args:
        storage: From `open_storage`.
        name: Of the study.
        identity: What a trial's value depends on, see `open_study`.
        space, score, cost: See `StrategyObjective`; with `cost` there are two objectives.
        sampler: From `make_sampler`.
        num_trials: Of all workers together.
        pruner: Where the score reports values on the way.
        confirm_score, confirm_identity: With fresh seed and more images; without them nothing is confirmed.
        confirm_top: How many trials are confirmed.
        also, stored: Strategies to measure along with them, by label, see `confirm_trials`.
        progress: Show bars.
    """
    study = open_study(storage, name, identity, sampler, ["minimize"] if cost is None else ["minimize"] * 2, pruner)
    run_study(study, StrategyObjective(space, score, cost), num_trials, progress)
    if confirm_score is None or confirm_identity is None:
        candidates = [
            Scored(f"trial {trial.number}", strategy_of(trial), trial.values[0], trial.user_attrs)
            for trial in best_trials(study, confirm_top)
        ]
        return Found(study, candidates, confirmed=False)
    candidates = confirm_trials(study, storage, confirm_identity, confirm_score, confirm_top, also, stored, progress)
    return Found(study, candidates, confirmed=True)


def rung_pruner() -> BasePruner:
    """Gives a trial up at a rung where it is worse than half of the others were with as many images."""
    return optuna.pruners.PercentilePruner(50.0, n_startup_trials=8)
