"""Searches that an experiment compares: each is a row of its results, made once; `experiments.py` imports it as its neighbour."""

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from arguments import make_search, pipeline_identity, start_strategy
from experiment_results import floor_of, made_on, results_of_before, save

from diffusers_autonat.cost import CostVaries, measured_costs, pipeline_cost
from diffusers_autonat.search.confirm import Scored, best_trials, score_candidates
from diffusers_autonat.search.gains import distance_of, gains_of
from diffusers_autonat.search.generation import search_generation
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.objective import is_population, strategy_of
from diffusers_autonat.search.samplers import SAMPLERS
from diffusers_autonat.search.spaces import SCHEDULE_NAMES
from diffusers_autonat.search.study import IDENTITY, complete_trials
from diffusers_autonat.search.workers import claim_of
from diffusers_autonat.strategies import Strategy, read_json


COST_IMAGES = 50  # whose costs are measured where they vary
DESCENTS = ("released",)  # of which the paper takes the end, whatever had been measured on the way


class Searched(NamedTuple):
    """
    Where a search began, its study, and by which sampler. What it had found `within` so many passes is confirmed too.
    """

    start: Strategy
    study: optuna.Study
    sampler: str
    within: int | None = None


class Gap(NamedTuple):
    """Between the tuned heuristic, where its results are named, and the floor: what is left when the tokenizer is all that errs."""

    floor: float | None
    baseline: float | None = None

    def closed(self, value: float, start: float) -> float | None:
        """The share that is closed; without a baseline, of the gap between the start and the floor."""
        if self.floor is None:
            return None
        first = start if self.baseline is None else self.baseline
        return round((first - value) / (first - self.floor), 4)


class ComparedSearches:
    """
    The searches of an experiment, as rows. Those of results of before with the same settings are taken as they are, others searched
    and confirmed on the same fresh noise.

    Args:
        args: What the command line said; `name` is what the results are called unless it says.
    """

    def __init__(self, args, judge: Judge, pipeline, storage, name: str):
        self.args, self.judge, self.pipeline, self.storage = args, judge, pipeline, storage
        self.name = args.study_name or name
        self.gap = gap_of(args, judge, pipeline)
        self.rows: list[dict] = []
        self._settings = self._settings_of_rows()
        known = results_of_before(args, judge, self.name, self._settings)
        self._known = {row["study"]: row for row in known.get("rows", [])}

    @property
    def data(self) -> dict:
        """Settings and rows: those so far, and of before those that are to come or were not asked for, which a kill must not lose."""
        made = {row["study"] for row in self.rows}
        rows = self.rows + [row for study, row in self._known.items() if study not in made]
        return {**self._settings, "rows": rows}

    def add(
        self, part: str, labels: dict[str, Any], search: Callable[[str], Searched], confirmed_alone: bool = False
    ) -> None:
        """
        Add a row, and write the results.

        Args:
            part: Names the search within the experiment.
            labels: What the row says of itself before anything else.
            search: Makes the search under the name of a study, where no row of before has it.
            confirmed_alone: Its images are of another order than those of the other searches, with which it shares nothing.
        """
        study_name = f"{self.name}-{part}"
        if (row := self._known.get(study_name)) is None:
            row = {**labels, **self._row_of(search(study_name), study_name if confirmed_alone else self.name)}
        self.rows.append(row)
        save(self.args, self.judge, self.name, self.data)

    def search(self, study_name: str, sampler_name: str, seed: int, free=SCHEDULE_NAMES, start=None) -> Searched:
        """A search, not yet confirmed: where it began, and its study."""
        args, judge, pipeline = self.args, replace(self.judge, seed=seed), self.pipeline
        start = start or start_strategy(args, args.num_inference_steps, pipeline)
        knots, space, sampler = make_search(args, sampler_name, start, seed, free)
        of_pipeline = pipeline_identity(pipeline, args.num_inference_steps)
        found = search_generation(
            self.storage, study_name,
            judge.identity(**of_pipeline, sampler=sampler_name, free=list(free), start=start.to_dict(), knots=knots), space,
            SAMPLERS[sampler_name].score(judge.score(pipeline), space), sampler, args.num_trials,
        )  # fmt: skip
        return Searched(space.start, found.study, sampler_name)

    def _settings_of_rows(self) -> dict:
        """What rows depend on besides the evaluation and the settings that every result states."""
        args, pipeline, steps = self.args, self.pipeline, self.args.num_inference_steps
        searched = {key: getattr(args, key) for key in ("sampler", "knots", "within_passes") if hasattr(args, key)}
        of_pipeline, stored = pipeline_identity(pipeline, steps), pipeline.scheduler.stored_strategies.get(steps)
        return {
            **of_pipeline, **searched, "start_strategy": start_strategy(args, steps, pipeline).to_dict(),
            "stored_strategy": None if stored is None else stored.to_dict(), **self.gap._asdict(),
        }  # fmt: skip

    def _row_of(self, searched: Searched, name: str) -> dict:
        """
        What a search found, beside its start and what the pipeline has stored for this T, all on the same fresh noise. `value` is
        that of the best of them, the best that is known for this T; `found_value` that of the search's own best trial, which may be
        worse than its start, and whose share of the gap is given. `end_value` is that of where a descent ended, `within_value` that
        of what was found within so many passes, and `within_unshared_value` the same if trials had shared none.
        """
        study = searched.study
        stored = self.pipeline.scheduler.stored_strategies.get(self.args.num_inference_steps)
        candidates = {"found": strategy_of(best_trials(study, 1)[0]), "start": searched.start}
        if stored is not None:
            candidates["stored"] = stored
        if searched.sampler in DESCENTS:
            candidates["end"] = strategy_of(single_with_spent(study)[-1][0])
        for label, unit in (("within", "passes"), ("within_unshared", "passes_unshared")):
            if searched.within and (one := best_within(study, searched.within, unit)) is not None:
                candidates[label] = one
        different = {json.dumps(one.to_dict()): label for label, one in reversed(candidates.items())}
        scored = self._confirm(name, {label: candidates[label] for label in different.values()})
        scored = {label: scored[different[json.dumps(one.to_dict())]] for label, one in candidates.items()}
        found, best = scored["found"], min(scored.values(), key=lambda one: one.value)
        others = [one for label, one in scored.items() if label in ("start", "stored") and one is not found]
        macs = {
            one.label: cost_of(self.pipeline, one.strategy) for one in {best.label: best, found.label: found}.values()
        }
        limit = {"within_passes": searched.within} if searched.within else {}
        # By which the best was chosen.
        penalised = {} if self.judge.constraint is None else {"penalised": best.value}
        value_name, second_name = self.judge.value_name, self.judge.second_name
        distance = partial(distance_of, name=value_name)
        return {
            "study": study.study_name, "trials": len(complete_trials(study)), **spent_by(study), "processes": processes_of(study), **limit, "best": best.label,
            "value": distance(best), **penalised, "strategy": best.strategy.to_dict(), "macs": macs[best.label],
            **{f"{label}_value": distance(one) for label, one in scored.items()},
            **{f"{label}_values": one.record["values"] for label, one in scored.items()},
            "found_strategy": found.strategy.to_dict(), "found_macs": macs[found.label],
            "start_strategy": searched.start.to_dict(),
            "gains": [gain.to_dict() for gain in gains_of(found, others, value_name, second_name)],
            "share_of_gap_closed": self.gap.closed(distance(found), distance(scored["start"])),
            "best_so_far": best_so_far(study), "best_so_far_by_passes": best_so_far(study, "passes"), **made_on(),
        }  # fmt: skip

    def _confirm(self, name: str, candidates: dict[str, Strategy]) -> dict[str, Scored]:
        """On fresh noise, by label; searches that share a name share it, so that what is alike is measured once."""
        name = f"{name}-confirm-{self.args.confirm_images}-{self.args.confirm_seed}"
        identity = self.judge.confirm_identity(**pipeline_identity(self.pipeline, self.args.num_inference_steps))
        scored = score_candidates(self.storage, name, identity, candidates, self.judge.confirm_score(self.pipeline))
        if len(scored) < len(candidates):  # of which there was a warning
            raise ValueError(f"{name}: not all candidates could be confirmed; run the command again")
        return {one.label: one for one in scored}


def cost_of(pipeline, strategy: Strategy) -> float:
    """Multiply-accumulates of an image; where they vary, the mean of some."""
    try:
        return pipeline_cost(pipeline, strategy).total
    except CostVaries:
        labels = [image % pipeline.transformer.config.num_classes for image in range(COST_IMAGES)]
        return statistics.mean(sum(cost) for cost in measured_costs(pipeline, labels, strategy))


def gap_of(args, judge: Judge, pipeline) -> Gap:
    """Before the first search, since a file may be another's."""
    floor = floor_of(args, judge)
    if args.baseline is None:
        return Gap(floor)
    known = read_json(Path(args.baseline))
    confirmed = {"confirm_images": args.confirm_images, "confirm_seed": args.confirm_seed}
    of_pipeline = pipeline_identity(pipeline, args.num_inference_steps)
    wanted = {**judge.confirm_identity(), **of_pipeline, **confirmed}
    same = ("pipeline", "num_inference_steps", "metric", "extractor", "reference", "dtype", "constraint")
    for key in (*same, *confirmed):
        if known.get(key) != wanted.get(key):
            raise ValueError(
                f"--baseline {args.baseline} is of {key} {known.get(key)!r}, here it is {wanted.get(key)!r}"
            )
    return Gap(floor, known["value"])


def with_spent(study: optuna.Study) -> list[tuple[optuna.trial.FrozenTrial, Counter]]:
    """
    Trials in the order in which they were finished, and what had been spent by then: `images`, `passes`, and the passes if trials
    had shared nothing but the first step, which is made once for each class anyway (`passes_unshared`).
    """
    spent, rows = Counter(images=0, passes=0, passes_unshared=0), []
    size = study.user_attrs[IDENTITY]["extractor_batch_size"]  # images are made in whole calls
    for trial in sorted(complete_trials(study), key=lambda trial: trial.datetime_complete):
        count, strategy = trial.user_attrs["num_images"], strategy_of(trial)
        passes = trial.user_attrs.get("passes", 0)
        each = strategy.num_inference_steps - 1 + sum(scale > 0 for scale in strategy.guidance_scales[1:])
        # Images of a population share nothing, and each has guidance of its own.
        unshared = passes if is_population(trial) else math.ceil(count / size) * size * each
        spent = spent + Counter(images=count, passes=passes, passes_unshared=unshared)
        rows.append((trial, spent))
    return rows


def spent_by(study: optuna.Study) -> Counter:
    """Of a whole search, see `with_spent`."""
    return with_spent(study)[-1][1]


def processes_of(study: optuna.Study) -> int:
    """How many have worked on it: what trials of one share, and so their passes, another has to make again."""
    workers = [claim["worker"] for trial in complete_trials(study) if (claim := claim_of(trial))]
    # `started` moves where the clock is set; studies of before have nothing else.
    return len({(one["host"], one["pid"], one.get("since_boot", one["started"])) for one in workers})


def single_with_spent(study: optuna.Study) -> list[tuple[optuna.trial.FrozenTrial, Counter]]:
    """Those of `with_spent` that measured one strategy."""
    return [(trial, spent) for trial, spent in with_spent(study) if not is_population(trial)]


def best_so_far(study: optuna.Study, unit: str = "images") -> list[tuple[int, float]]:
    """(`unit` so far, best value) after each trial that measured one strategy: the value of a population is that of many."""
    single = single_with_spent(study)
    best = itertools.accumulate((trial.values[0] for trial, _ in single), min)
    return [(spent[unit], value) for (_, spent), value in zip(single, best)]


def best_within(study: optuna.Study, limit: int, unit: str) -> Strategy | None:
    """The best single strategy that a search had measured before more than `limit` was spent."""
    within = [trial for trial, spent in single_with_spent(study) if spent[unit] <= limit]
    return strategy_of(min(within, key=lambda trial: trial.values[0])) if within else None
