"""Candidates scored on fresh noise: the lowest of many noisy values is too low, so winners are measured again."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..strategies import GenerationStrategy, Strategy, TrainingStrategy
from .objective import STRATEGY, Score, is_population, strategy_of
from .optuna_samplers import ResumableSampler
from .parts import count_parts, score_part
from .rounds import ATTEMPTS
from .study import POLL, complete_trials, open_study, run_study, wait_for_workers
from .workers import FAILURE, all_trials, is_lost


CANDIDATES = "candidates"  # study user attribute: labels and strategies, in the order they were added

S = TypeVar("S", bound=GenerationStrategy | TrainingStrategy)


@dataclass(frozen=True)
class Scored(Generic[S]):
    """A strategy with what was measured: its value, and everything the score recorded with it."""

    label: str
    strategy: S
    value: float
    record: Mapping[str, Any]


def score_candidates(
    storage: BaseStorage,
    name: str,
    identity: Mapping[str, Any],
    candidates: Mapping[str, S],
    score: Callable[[S, optuna.Trial], float],
    progress: bool = True,
) -> list[Scored[S]]:
    """Score given strategies in a study of their own, which any number of workers share and which resumes.

    Args:
        storage: From `open_storage`.
        name: Of that study; candidates that it has scored before are not scored again, new ones are added. That of a second
            extractor is appended, which may be asked after a confirmation without it.
        identity: As for `open_study`.
        candidates: Generation or training strategies by label.
        score: From a strategy and its trial to the value, the lower the better. With a `PartedScore` workers share each
            candidate, too.
        progress: Show a bar.

    Returns:
        Those whose score did not fail, best first. What fails is tried once more, and again by the next call; of a candidate
        that has no value then there is a warning with the reason.

    Raises:
        ValueError: all failed, or the study is about something else.
    """
    if second := identity.get("second_extractor"):
        name = f"{name}-{second}"
    study = open_study(storage, name, identity, _in_order(0, 1))
    before = len(all_trials(study))
    num_parts = count_parts(study, score, begun=CANDIDATES in study.user_attrs)
    wanted: list[dict[str, Any]] = [{"label": label, "strategy": _as_json(one)} for label, one in candidates.items()]
    [kind] = {type(strategy) for strategy in candidates.values()}

    def objective(trial: optuna.Trial) -> float:
        # The upper bound is that of no list: a distribution must not change as candidates are added.
        index, listed = trial.suggest_int("candidate", 0, 10**6), _listed(study)
        if index >= len(listed):  # workers that came at once have begun one too many
            time.sleep(POLL)
            raise optuna.TrialPruned
        candidate = listed[index]
        trial.set_user_attr("label", candidate["label"])
        trial.set_user_attr(STRATEGY, candidate["strategy"])
        strategy = kind(**candidate["strategy"])
        return score(strategy, trial) if num_parts == 1 else score_part(study, trial, score, strategy)

    known = [candidate["strategy"] for candidate in _listed(study)]
    new = [candidate for candidate in wanted if candidate["strategy"] not in known]
    while True:
        listed = [*_listed(study), *new]
        if new:
            study.set_user_attr(CANDIDATES, listed)
        study.sampler = _in_order(len(listed), num_parts)
        run_study(study, objective, num_parts * len(listed), progress)
        wait_for_workers(study)
        # A worker with other candidates, come at the same moment, may have written its list over this one; or one has failed.
        if not (new := _to_be_tried(study, wanted, before)):
            break
    scored: dict[str, Scored[S]] = {}  # by label; two workers may have measured a candidate from the same parts
    labels = {
        json.dumps(candidate["strategy"]): candidate["label"] for candidate in wanted
    }  # which may have been another
    for trial in complete_trials(study):
        if (label := labels.get(json.dumps(_measured(trial, listed)))) is not None:
            scored.setdefault(label, Scored(label, candidates[label], trial.values[0], trial.user_attrs))
    for candidate in wanted:
        if candidate["label"] not in scored and candidate["label"] in labels.values():
            reason = _failures(study, candidate, 0)[-1].user_attrs.get(FAILURE, "of which nothing is known")
            warnings.warn(f"{candidate['label']} has no value and is left out: {reason}", stacklevel=2)
    return list(scored.values())


def _listed(study: Study) -> list[dict[str, Any]]:
    """Labels and strategies of all candidates so far."""
    return study.user_attrs.get(CANDIDATES, [])


def _to_be_tried(study: Study, wanted: list[dict[str, Any]], before: int) -> list[dict[str, Any]]:
    """Those that have no value, and have not failed too often since there were so many trials."""
    complete = [trial for trial in all_trials(study) if trial.state == TrialState.COMPLETE]
    listed = _listed(study)
    measured = [_measured(trial, listed) for trial in complete if "candidate" in trial.params]
    return [
        candidate
        for candidate in wanted
        if candidate["strategy"] not in measured and len(_failures(study, candidate, before)) < ATTEMPTS
    ]


def _failures(study: Study, candidate: dict[str, Any], before: int) -> list[FrozenTrial]:
    listed = _listed(study)
    failed = [trial for trial in all_trials(study)[before:] if trial.state == TrialState.FAIL and not is_lost(trial)]
    return [t for t in failed if "candidate" in t.params and _measured(t, listed) == candidate["strategy"]]


def _measured(trial: FrozenTrial, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """What a trial is about: the list may have been another's. Earlier code did not note it."""
    return trial.user_attrs.get(STRATEGY) or listed[trial.params["candidate"]]["strategy"]


def _as_json(strategy: GenerationStrategy | TrainingStrategy) -> dict[str, Any]:
    """As a study holds it."""
    return json.loads(json.dumps(strategy.to_dict()))


def _in_order(num_candidates: int, num_parts: int) -> ResumableSampler:
    """Candidate by candidate, part by part, whoever runs them."""
    starts = [{"candidate": index, "part": part} for index in range(num_candidates) for part in range(num_parts)]
    return ResumableSampler(lambda seed: optuna.samplers.RandomSampler(seed), starts=starts)


def best_trials(study: Study, top: int) -> list[FrozenTrial]:
    """The `top` best trials of different strategies; of two objectives, so many of the front, spread over it, and the best of each T."""
    if len(study.directions) == 1:
        different: dict[str, FrozenTrial] = {}
        for trial in complete_trials(study):
            if not is_population(trial):
                different.setdefault(str(trial.user_attrs[STRATEGY]), trial)
        if not different:
            raise ValueError(
                f"study {study.study_name!r} has measured no single strategy yet: a search that was begun for more trials "
                "measures them at its end, so go on with as many --num-trials"
            )
        return list(different.values())[:top]
    of_length: dict[int, FrozenTrial] = {}  # also of a T that is not on the front, or not where it is looked at
    for trial in sorted(complete_trials(study), key=lambda t: t.values):
        of_length.setdefault(strategy_of(trial).num_inference_steps, trial)
    front = sorted({tuple(t.values): t for t in reversed(study.best_trials)}.values(), key=lambda t: -t.values[-1])
    if len(front) > top:
        front = [front[round(i * (len(front) - 1) / max(1, top - 1))] for i in range(top)]
    chosen = {tuple(trial.values): trial for trial in [*front, *of_length.values()]}
    return sorted(chosen.values(), key=lambda t: t.values[-1])


def confirm_trials(
    study: Study,
    storage: BaseStorage,
    identity: Mapping[str, Any],
    score: Score,
    top: int,
    also: Mapping[str, GenerationStrategy] | None = None,
    stored: Mapping[str, GenerationStrategy] | None = None,
    progress: bool = True,
) -> list[Scored[GenerationStrategy]]:
    """Score the best trials of a finished study again; resumes, and is shared by workers, as every study.

    Args:
        study: The search. Its running trials are waited for.
        storage: Where the search's study lives; the confirmation becomes a study beside it.
        identity: What the confirmation's values depend on: fresh seed, larger N.
        score: With that seed and N.
        top: How many trials.
        also: Strategies to measure with them, such as the start of the search; known by this label if they are trials.
        stored: More of them, known as trials if they are: what an earlier call of the same search has stored.
        progress: Show a bar.

    Returns:
        The candidates, best first, labelled `trial <number>` or as in `also`.
    """
    wait_for_workers(study)
    also = also or {}
    best = {f"trial {trial.number}": strategy_of(trial) for trial in best_trials(study, top)}
    candidates = {label: strategy for label, strategy in best.items() if not _is_among(strategy, also)} | dict(also)
    for label, strategy in (stored or {}).items():
        if not _is_among(strategy, candidates):
            candidates[label] = strategy
    name = f"{study.study_name}-confirm-{identity['num_images']}-{identity['seed']}"
    return score_candidates(storage, name, identity, candidates, score, progress)


def _is_among(strategy: Strategy, others: Mapping[str, Strategy]) -> bool:
    """Whether one of them does the same: curves through all steps are their start but for rounding."""
    return any(strategy.acts_as(other) for other in others.values())
