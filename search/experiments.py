#!/usr/bin/env python
"""The studies behind docs/search_results.md, one command each; results go to --output as JSON and plots.

    diffusers-autonat search experiments baseline PIPELINE ...    the heuristic with lambda and k tuned by a grid
    diffusers-autonat search experiments samplers PIPELINE ...    samplers at equal numbers of generated images, several seeds
    diffusers-autonat search experiments free PIPELINE ...        which of r, tau1, tau2, s matter (Table 6e of the paper)
    diffusers-autonat search experiments orders PIPELINE ...      orders of revealing tokens, each with its own schedules searched
    diffusers-autonat search experiments concurrent ... -- ...    p(r) and the generation strategy in one search (Table 6c)
    diffusers-autonat search experiments training ... -- ...      p(r): Beta candidates, arccos, fixed 0.8 (Tables 2 and 6a)

Each can be killed and run again, and run several times at once; searches that the results have already are not made
again. Compare `concurrent` with `search alternating` given the same training arguments and candidates folder.
"""

import itertools
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import optuna
from arguments import (
    add_evaluation_arguments,
    add_knots_argument,
    add_pipeline_arguments,
    add_start_arguments,
    add_study_arguments,
    add_training_arguments,
    as_identity,
    candidate_trainer,
    constraint_of,
    given_settings,
    judge_of,
    knots_of,
    load_judged,
    main_of_script,
    parse_args_before_dashes,
    pipeline_identity,
    start_label,
    start_strategy,
    storage_location,
)

from diffusers_autonat import (
    DilatedScheduler,
    EntropyBoundedScheduler,
    GenerationStrategy,
    HaltonScheduler,
    NATScheduler,
    RandomScheduler,
    ReMDMScheduler,
    TrainingStrategy,
)
from diffusers_autonat.command_line import Parser, number, positive
from diffusers_autonat.cost import CostVaries, measured_costs, pipeline_cost
from diffusers_autonat.files import write_json
from diffusers_autonat.metrics import Report
from diffusers_autonat.plots import plot_bars, plot_curves, plot_schedules, title_of
from diffusers_autonat.provenance import hardware, versions
from diffusers_autonat.search.confirm import Scored, best_trials, score_candidates
from diffusers_autonat.search.gains import error_of, gains_of
from diffusers_autonat.search.generation import search_generation
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.objective import POPULATION, StrategyObjective, strategy_of
from diffusers_autonat.search.report import save_trials, writing
from diffusers_autonat.search.samplers import SAMPLERS, make_sampler, make_space, sampler_names
from diffusers_autonat.search.spaces import SCHEDULE_NAMES, training_space
from diffusers_autonat.search.strategy_spaces import FixedStepsSpace
from diffusers_autonat.search.study import complete_trials, open_storage, open_study, run_study, wait_for_workers
from diffusers_autonat.search.training import describe
from diffusers_autonat.strategies import Strategy, read_json
from diffusers_autonat.strategy_files import strategy_from_dict
from diffusers_autonat.training.recipes import heuristic_of


ORDERS = {
    "confidence": NATScheduler,
    "Halton": HaltonScheduler,
    "random": RandomScheduler,
    "dilated": DilatedScheduler,
    "entropy-bounded": EntropyBoundedScheduler,
    "ReMDM": ReMDMScheduler,
}
COST_IMAGES = 50  # whose costs are measured where they vary
OF_A_RUN = ("rows", "confirmed", "hardware", "versions")  # of results, else they state settings
CURVES = {"best_so_far": "images", "best_so_far_by_passes": "passes"}  # of a row of `samplers`
UNITS = {"images": "generated images", "passes": "images that went through the transformer"}
DESCENTS = ("released",)  # of which the paper takes the end, whatever had been measured on the way
SEEDS = 1_000  # between the seeds of two repetitions, which are also those of their noise


class Searched(NamedTuple):
    """Where a search began, its study, and by which sampler."""

    start: Strategy
    study: optuna.Study
    sampler: str


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


def parse_args():
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="experiment", metavar="EXPERIMENT")
    several = sampler_names()
    for run in (baseline, samplers, free, orders, concurrent, training):
        command = commands.add_parser(run.__name__, description=run.__doc__, help=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--num-inference-steps", type=positive, default=4, help="T")
        if run in (concurrent, training):
            add_training_arguments(command)
        else:
            add_pipeline_arguments(command)
        if run is baseline:
            command.add_argument(
                "--lambdas",
                type=number(0),
                nargs="+",
                default=[1.0, 2.0, 3.0, 4.5, 6.0, 9.0],
                help="re-masking temperatures of the grid",
            )
            command.add_argument(
                "--ks",
                type=number(0),
                nargs="+",
                default=[0.5, 1.0, 1.5, 2.0, 3.0],
                help="guidance scales of the grid",
            )
            command.add_argument(
                "--taus", type=number(0), nargs="+", help="sampling temperatures of the grid; default: the paper's"
            )
        else:
            add_start_arguments(command)
        if run in (samplers, free, orders, concurrent):
            command.add_argument("--num-trials", type=positive, default=300, help="of each search")
            add_knots_argument(command)
        if run is samplers:
            command.add_argument(
                "--within-passes",
                type=passes_or_sampler,
                metavar="PASSES|SAMPLER",
                help="also confirm what each search had found in so many passes, or in those of the first of --samplers",
            )
            command.add_argument(
                "--samplers",
                nargs="+",
                choices=several,
                default=[s for s in several if s != "random"],
                help="that are compared",
            )
            command.add_argument(
                "--repetitions", type=positive, default=3, help="searches of each sampler, with different seeds"
            )
        if run is free:
            command.add_argument("--sampler", choices=several, default="finite-difference", help="of all searches")
        if run is orders:
            command.add_argument("--sampler", choices=several, default="population", help="of all searches")
        if run is concurrent:
            command.add_argument("--sampler", choices=["tpe", "random"], default="tpe", help="p(r) is categorical")
        if run is not training:
            command.add_argument("--floor", help="report of `diffusers-autonat evaluate --reconstruct` at the same N")
        if run in (samplers, free, orders):
            command.add_argument(
                "--baseline", help="results of `baseline`: shares of the gap count from there; default: from the start"
            )
        add_evaluation_arguments(command)
        if run in (samplers, free, orders):
            command.set_defaults(confirm_top=1)
        add_study_arguments(command)
    return parse_args_before_dashes(parser)


def passes_or_sampler(text: str) -> int | str:
    return text if text in sampler_names() else positive(text)


def floor_of(args, judge: Judge) -> float | None:
    """Distance of the tokenizer's reconstructions, which perfect tokens would have."""
    if args.floor is None:
        return None
    values = Report.load(args.floor).values
    if judge.value_name not in values:
        raise ValueError(f"--floor {args.floor} has no {judge.value_name}, only {', '.join(values)}")
    return values[judge.value_name]


def gap_of(args, judge: Judge, pipeline) -> Gap:
    """Before the first search, since a file may be another's."""
    floor = floor_of(args, judge)
    if args.baseline is None:
        return Gap(floor)
    known = read_json(Path(args.baseline))
    confirmed = {"confirm_images": args.confirm_images, "confirm_seed": args.confirm_seed}
    of_pipeline = pipeline_identity(pipeline, args.num_inference_steps)
    wanted = {**judge.confirm_identity(), **of_pipeline, **confirmed}
    for key in ("pipeline", "num_inference_steps", "metric", "extractor", "reference", "dtype", *confirmed):
        if known.get(key) != wanted[key]:
            raise ValueError(f"--baseline {args.baseline} is of {key} {known.get(key)!r}, here it is {wanted[key]!r}")
    return Gap(floor, known["value"])


def one_search(args, judge, pipeline, storage, name, sampler_name, seed, free=SCHEDULE_NAMES, start=None) -> Searched:
    """A search, not yet confirmed: where it began, and its study."""
    start = start or start_strategy(args, args.num_inference_steps, pipeline)
    knots = knots_of(args, sampler_name, start.num_inference_steps)
    space = make_space(sampler_name, start, free, knots)
    sampler = make_sampler(sampler_name, space.parameters, args.num_trials, seed)
    of_pipeline = pipeline_identity(pipeline, args.num_inference_steps)
    score = judge.score(pipeline)
    score.seed = seed
    identity = {
        **judge.identity(**of_pipeline, sampler=sampler_name, free=list(free), start=start.to_dict(), knots=knots),
        "seed": seed,
    }
    found = search_generation(
        storage, name, identity, space, SAMPLERS[sampler_name].score(score, space), sampler, args.num_trials
    )
    return Searched(space.start, found.study, sampler_name)


def heuristics(args, pipeline=None) -> dict[str, GenerationStrategy]:
    """The grid of the baseline."""
    heuristic, grid = heuristic_of(pipeline), {}
    for tau, lam, k in itertools.product(args.taus or [None], args.lambdas, args.ks):
        named = "" if tau is None else f"tau1 {tau:g}, "
        given = {} if tau is None else {"sampling_temperature": tau}
        grid[f"{named}lambda {lam:g}, k {k:g}"] = heuristic(
            args.num_inference_steps, remasking_temperature=lam, guidance_scale=k, **given
        )
    return grid


def check(args) -> None:
    """What can be wrong, before a reference is read or an image made."""
    if args.study_name and Path(args.study_name).name != args.study_name:
        raise ValueError(f"--study-name {args.study_name} names the results too and must not have a /")
    if getattr(args, "floor", None) is not None:
        Report.load(args.floor)
    if args.experiment in ("samplers", "free", "orders") and args.confirm_top != 1:
        raise ValueError(
            f"--confirm-top {args.confirm_top}: searches are compared by one confirmed value each, else the lowest of several would win"
        )
    if isinstance(getattr(args, "within_passes", None), str) and args.within_passes != args.samplers[0]:
        raise ValueError(
            f"--within-passes {args.within_passes}: its passes must be known before the others', name it first in --samplers"
        )
    if args.experiment == "baseline":
        heuristics(args)
    elif args.experiment == "orders":
        if args.start != "heuristic":
            raise ValueError(f"--start {args.start}: each order is searched from its own heuristic; leave it out")
    elif args.start != "stored":
        start = start_strategy(args, args.num_inference_steps, None)
        for name in getattr(args, "samplers", [getattr(args, "sampler", "random")]):
            knots = knots_of(args, name, start.num_inference_steps) if "knots" in args else None
            space = make_space(name, start, num_knots=knots)
            SAMPLERS[name].check(args.num_images, space, constraint_of(args))
            make_sampler(name, space.parameters, getattr(args, "num_trials", 1), args.seed)
            if args.redraw_noise and not SAMPLERS[name].redraw_noise:
                raise ValueError(f"--redraw-noise: {name} compares values of several rounds; leave it out")
    if args.experiment in ("concurrent", "training"):
        candidate_trainer(args)
        training_space(TrainingStrategy(args.start_alpha, args.start_beta), args.alphas, args.betas)


def confirm(args, judge, pipeline, storage, name, candidates: dict[str, Strategy]) -> dict[str, Scored]:
    """On fresh noise, by label; all searches of an experiment share it, so that what they share is measured once."""
    name = f"{name}-confirm-{args.confirm_images}-{args.confirm_seed}"
    identity = judge.confirm_identity(**pipeline_identity(pipeline, args.num_inference_steps))
    scored = score_candidates(storage, name, identity, candidates, judge.confirm_score(pipeline))
    return {one.label: one for one in scored}


def with_spent(study: optuna.Study) -> list[tuple[optuna.trial.FrozenTrial, Counter]]:
    """
    Trials in the order in which they were finished, and what had been spent by then: `images`, `passes`, and the passes if trials
    had shared nothing but the first step, which is made once for each class anyway (`passes_unshared`).
    """
    spent, rows = Counter(images=0, passes=0, passes_unshared=0), []
    for trial in sorted(complete_trials(study), key=lambda trial: trial.datetime_complete):
        count, strategy = trial.user_attrs["num_images"], strategy_of(trial)
        passes = trial.user_attrs.get("passes", 0)
        each = strategy.num_inference_steps - 1 + sum(scale > 0 for scale in strategy.guidance_scales[1:])
        # Images of a population share nothing, and each has guidance of its own.
        unshared = passes if POPULATION in trial.user_attrs else count * each
        spent = spent + Counter(images=count, passes=passes, passes_unshared=unshared)
        rows.append((trial, spent))
    return rows


def single_with_spent(study: optuna.Study) -> list[tuple[optuna.trial.FrozenTrial, Counter]]:
    """Those of `with_spent` that measured one strategy."""
    return [(trial, spent) for trial, spent in with_spent(study) if POPULATION not in trial.user_attrs]


def best_so_far(study: optuna.Study, unit: str = "images") -> list[tuple[int, float]]:
    """(`unit` so far, best value) after each trial that measured one strategy: the value of a population is that of many."""
    single = single_with_spent(study)
    best = itertools.accumulate((trial.values[0] for trial, _ in single), min)
    return [(spent[unit], value) for (_, spent), value in zip(single, best)]


def best_within(study: optuna.Study, limit: int, unit: str) -> Strategy | None:
    """The best single strategy that a search had measured before more than `limit` was spent."""
    within = [trial for trial, spent in single_with_spent(study) if spent[unit] <= limit]
    return strategy_of(min(within, key=lambda trial: trial.values[0])) if within else None


def row_of(args, judge, pipeline, storage, name, searched: Searched, gap: Gap, passes: int | None = None) -> dict:
    """
    What a search found, beside its start and what the pipeline has stored for this T, all on the same fresh noise. `value` is that
    of the best of them, the best that is known for this T; `found_value` that of the search's own best trial, which may be worse
    than its start, and whose share of the gap is given. `end_value` is that of where a descent ended, `within_value` that of what
    was found within `passes`, and `within_unshared_value` the same if trials had shared none.
    """
    study = searched.study
    stored = pipeline.scheduler.stored_strategies.get(args.num_inference_steps)
    candidates = {"found": strategy_of(best_trials(study, 1)[0]), "start": searched.start}
    if stored is not None:
        candidates["stored"] = stored
    if searched.sampler in DESCENTS:
        candidates["end"] = strategy_of(single_with_spent(study)[-1][0])
    for label, unit in (("within", "passes"), ("within_unshared", "passes_unshared")):
        if passes and (one := best_within(study, passes, unit)) is not None:
            candidates[label] = one
    different = {json.dumps(one.to_dict()): label for label, one in reversed(candidates.items())}
    scored = confirm(args, judge, pipeline, storage, name, {label: candidates[label] for label in different.values()})
    scored = {label: scored[different[json.dumps(one.to_dict())]] for label, one in candidates.items()}
    found, best = scored["found"], min(scored.values(), key=lambda one: one.value)
    others = [one for label, one in scored.items() if label in ("start", "stored") and one is not found]
    macs = {one.label: cost_of(pipeline, one.strategy) for one in {best.label: best, found.label: found}.values()}
    return {
        "study": study.study_name, "trials": len(complete_trials(study)), **with_spent(study)[-1][1], "best": best.label,
        "value": best.value, "strategy": best.strategy.to_dict(), "macs": macs[best.label],
        **{f"{label}_value": one.value for label, one in scored.items()},
        **{f"{label}_values": one.record["values"] for label, one in scored.items()},
        "found_strategy": found.strategy.to_dict(), "found_macs": macs[found.label], "start_strategy": searched.start.to_dict(),
        "gains": [gain.to_dict() for gain in gains_of(found, others, judge.value_name, judge.second_name)],
        "share_of_gap_closed": gap.closed(found.value, scored["start"].value), **made_on(),
    }  # fmt: skip


def settings_of_rows(args, pipeline, gap: Gap) -> dict:
    """What rows depend on besides the evaluation and the settings that every result states."""
    steps = args.num_inference_steps
    searched = {key: getattr(args, key) for key in ("sampler", "knots", "within_passes") if hasattr(args, key)}
    of_pipeline, stored = pipeline_identity(pipeline, steps), pipeline.scheduler.stored_strategies.get(steps)
    return {
        **of_pipeline, **searched, "start_strategy": start_strategy(args, steps, pipeline).to_dict(),
        "stored_strategy": None if stored is None else stored.to_dict(), **gap._asdict(),
    }  # fmt: skip


def rows_of_before(args, judge, name, settings: dict) -> dict[str, dict]:
    """Rows of results with the same settings, by study: what was searched need not be searched again where its journal is gone."""
    file = Path(args.output, f"{name}.json")
    known = read_json(file) if file.exists() else {}
    wanted = json.loads(json.dumps(result(args, judge, settings)))
    same = {key: known[key] for key in known if key not in OF_A_RUN} == {
        key: wanted[key] for key in wanted if key not in OF_A_RUN
    }
    return {row["study"]: row for row in known["rows"]} if same else {}


def with_later(rows: list[dict], known: dict[str, dict]) -> list[dict]:
    """The rows so far and those of before that are still to come, or were not asked for: a killed run must not lose them."""
    return rows + [row for study, row in known.items() if study not in {row["study"] for row in rows}]


def mean_and_deviation(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}


def baseline(args, judge, pipeline, storage, output):
    """the heuristic with lambda, k and, if wanted, tau1 tuned by a grid, the best confirmed on fresh noise"""
    steps = args.num_inference_steps
    of_pipeline = pipeline_identity(pipeline, steps)
    floor, grid = floor_of(args, judge), heuristics(args, pipeline)
    name = args.study_name or f"baseline-T{steps}"
    rows = score_candidates(storage, name, judge.identity(**of_pipeline), grid, judge.score(pipeline))
    winners = {row.label: row.strategy for row in rows[: max(1, args.confirm_top)]}
    confirmed = score_candidates(
        storage, f"{name}-confirm-{args.confirm_images}-{args.confirm_seed}", judge.confirm_identity(**of_pipeline), winners,
        judge.confirm_score(pipeline),
    )  # fmt: skip
    title = title_of(args.pipeline, steps, args.num_images)
    plot_bars({row.label: row.value for row in rows}, output / f"{name}.png", judge.value_name, floor, title)
    return name, {
        **of_pipeline, "floor": floor, "tuned": confirmed[0].label, "value": confirmed[0].value,
        "strategy": confirmed[0].strategy.to_dict(),
        "grid": [{"label": row.label, "value": row.value, "values": row.record["values"]} for row in rows],
        "confirmed": [{"label": row.label, "value": row.value, "values": row.record["values"]} for row in confirmed],
    }  # fmt: skip


def samplers(args, judge, pipeline, storage, output):
    """samplers at equal numbers of generated images"""
    gap = gap_of(args, judge, pipeline)
    title = title_of(args.pipeline, args.num_inference_steps, args.num_images)
    name, rows = args.study_name or f"samplers-T{args.num_inference_steps}", []
    settings = settings_of_rows(args, pipeline, gap)
    known = rows_of_before(args, judge, name, settings)
    for repetition, sampler in itertools.product(range(args.repetitions), args.samplers):
        seed = args.seed + SEEDS * repetition
        study_name = f"{name}-{sampler}-seed{seed}"
        if (row := known.get(study_name)) is None:
            searched = one_search(args, judge, pipeline, storage, study_name, sampler, seed)
            passes = args.within_passes
            if isinstance(passes, str):  # of the same seed
                passes = next(
                    (one["passes"] for one in rows if one["seed"] == seed), with_spent(searched.study)[-1][1]["passes"]
                )
            row = {
                "sampler": sampler, "seed": seed, **row_of(args, judge, pipeline, storage, name, searched, gap, passes),
                **{curve: best_so_far(searched.study, unit) for curve, unit in CURVES.items()},
            }  # fmt: skip
        rows.append(row)
        if len(args.samplers) > 1:
            for curve, unit in CURVES.items():
                curves = {one: [row[curve] for row in rows if row["sampler"] == one] for one in args.samplers}
                file = output / f"{name}{'' if unit == 'images' else '-' + unit}.png"
                curves = {one: of_seeds for one, of_seeds in curves.items() if of_seeds}
                plot_curves(curves, file, UNITS[unit], f"best {judge.value_name} so far", title=title)
        else:  # whether seeds find the same
            seeds = {f"seed {row['seed']}": strategy_from_dict(row["found_strategy"]) for row in rows}
            start = strategy_from_dict(row["start_strategy"])
            plot_schedules({**seeds, start_label(args): start}, output / f"{name}.png", title)
        data = {**settings, "rows": with_later(rows, known)}
        save(args, judge, name, data)
    found = {s: mean_and_deviation([row["found_value"] for row in rows if row["sampler"] == s]) for s in args.samplers}
    means = {sampler: one["mean"] for sampler, one in found.items()}
    title = title_of(args.pipeline, args.num_inference_steps, args.confirm_images)
    # Of the means over seeds, which differ by more than the noise of one confirmation.
    errors = {sampler: one["deviation"] and one["deviation"] / args.repetitions**0.5 for sampler, one in found.items()}
    if len(args.samplers) > 1:
        plot_bars(means, output / f"{name}-confirmed.png", f"{judge.value_name}, confirmed", gap.floor, title, errors)
    best = min(rows, key=lambda row: row["value"])
    with writing(output):
        write_json(output / f"{name}-strategy.json", best["strategy"])
    return name, {**data, "confirmed": found}


def free(args, judge, pipeline, storage, output):
    """which of r, tau1, tau2, s matter: all searched, all but each, and each alone"""
    gap = gap_of(args, judge, pipeline)
    title = title_of(args.pipeline, args.num_inference_steps, args.confirm_images)
    name, rows = args.study_name or f"free-T{args.num_inference_steps}", []
    kinds = {
        "all": SCHEDULE_NAMES,
        **{f"all but {one}": tuple(other for other in SCHEDULE_NAMES if other != one) for one in SCHEDULE_NAMES},
        **{one: (one,) for one in SCHEDULE_NAMES},
    }
    settings = settings_of_rows(args, pipeline, gap)
    known = rows_of_before(args, judge, name, settings)
    for label, schedules in kinds.items():
        study_name = f"{name}-{label.replace(' ', '-')}"
        if (row := known.get(study_name)) is None:
            searched = one_search(args, judge, pipeline, storage, study_name, args.sampler, args.seed, schedules)
            row = {
                "free": list(schedules),
                "label": label,
                **row_of(args, judge, pipeline, storage, name, searched, gap),
            }
        rows.append(row)
        bars = {start_label(args): row["start_value"], **{row["label"]: row["found_value"] for row in rows}}
        values = {start_label(args): row["start_values"], **{row["label"]: row["found_values"] for row in rows}}
        errors = {label: error_of(of, judge.value_name) for label, of in values.items()}
        plot_bars(bars, output / f"{name}.png", f"{judge.value_name}, confirmed", gap.floor, title, errors)
        data = {**settings, "rows": with_later(rows, known)}
        save(args, judge, name, data)
    return name, data


def start_of_order(args, pipeline) -> Strategy:
    """The order's own heuristic, guided as NATScheduler's is, so that orders differ in nothing else."""
    if isinstance(pipeline.scheduler, NATScheduler):
        return start_strategy(args, args.num_inference_steps, pipeline)
    given = {name: value for name, value in given_settings(args).items() if name == "guidance_scale"}
    start = pipeline.scheduler.heuristic(args.num_inference_steps)
    guidance = GenerationStrategy.cosine(args.num_inference_steps, **given).guidance_scales
    return type(start).from_dict(start.to_dict() | {"guidance_scales": guidance})


def orders(args, judge, pipeline, storage, output):
    """orders of revealing tokens, each with its own schedules searched from its own heuristic, at equal images"""
    gap, steps = gap_of(args, judge, pipeline), args.num_inference_steps
    name, rows = args.study_name or f"orders-T{steps}", []
    settings = settings_of_rows(args, pipeline, gap)
    known = rows_of_before(args, judge, name, settings)
    for label, order in ORDERS.items():
        pipeline.scheduler = order(pipeline.scheduler.config.mask_token_id)
        start = start_of_order(args, pipeline)
        free = [key for key, values in start.to_dict().items() if any(values)]  # tau2 is 0 where it has no effect
        study_name = f"{name}-{label}"
        if (row := known.get(study_name)) is None:
            searched = one_search(args, judge, pipeline, storage, study_name, args.sampler, args.seed, free, start)
            row = {"order": label, "free": free, **row_of(args, judge, pipeline, storage, study_name, searched, gap)}
        rows.append(row)
        bars = {row["order"]: row["value"] for row in rows}
        errors = {row["order"]: error_of(row[f"{row['best']}_values"], judge.value_name) for row in rows}
        title = title_of(args.pipeline, steps, args.confirm_images)
        plot_bars(bars, output / f"{name}.png", f"{judge.value_name}, confirmed", gap.floor, title, errors)
        data = {**settings, "rows": with_later(rows, known)}
        save(args, judge, name, data)
    return name, data


def cost_of(pipeline, strategy: Strategy) -> float:
    """Multiply-accumulates of an image; where they vary, the mean of some."""
    try:
        return pipeline_cost(pipeline, strategy).total
    except CostVaries:
        labels = [image % pipeline.transformer.config.num_classes for image in range(COST_IMAGES)]
        return statistics.mean(sum(cost) for cost in measured_costs(pipeline, labels, strategy))


def concurrent(args, judge, pipeline, storage, output):
    """p(r) and the generation strategy in one search, to compare with the alternating one"""
    train, floor = candidate_trainer(args), floor_of(args, judge)
    training = TrainingStrategy(args.start_alpha, args.start_beta)
    grid = training_space(training, args.alphas, args.betas)
    start = start_strategy(args, args.num_inference_steps, None)
    space = FixedStepsSpace(start)
    first = {name: parameter.start for name, parameter in [*grid.items(), *space.parameters.items()]}
    sampler = make_sampler(args.sampler, space.parameters, args.num_trials, args.seed, [first])
    name = args.study_name or f"concurrent-T{args.num_inference_steps}"
    recipe = {"training": train.recipe, "alphas": args.alphas, "betas": args.betas}
    identity = judge.identity(**recipe, sampler=args.sampler, start=start.to_dict())
    study = open_study(storage, name, identity, sampler)

    def objective(trial: optuna.Trial) -> float:
        params = {key: trial.suggest_categorical(key, parameter.values) for key, parameter in grid.items()}
        folder = train(TrainingStrategy(params["alpha"], params["beta"]))
        return StrategyObjective(space, judge.score(judge.load_pipeline(folder)))(trial)

    run_study(study, objective, args.num_trials)
    wait_for_workers(study)
    rows = []
    for trial in complete_trials(study)[: max(1, args.confirm_top)]:
        chosen = TrainingStrategy(trial.params["alpha"], trial.params["beta"])
        pipeline = judge.load_pipeline(train(chosen))
        strategy = GenerationStrategy.from_dict(trial.user_attrs["strategy"])
        [row] = score_candidates(
            storage, f"{name}-confirm-{trial.number}-{args.confirm_images}", judge.confirm_identity(**recipe),
            {describe(chosen): strategy}, judge.confirm_score(pipeline),
        )  # fmt: skip
        rows.append({"trial": trial.number, "training": chosen.to_dict(), "value": row.value, "search_value": trial.values[0],
                     "values": row.record["values"], "strategy": strategy.to_dict()})  # fmt: skip
    rows.sort(key=lambda row: row["value"])
    with writing(output):
        save_trials(study, output / f"{name}.csv")
    curve = best_so_far(study)
    title = title_of("trained candidates", args.num_inference_steps, args.num_images)
    plot_curves({"concurrent": [curve]}, output / f"{name}.png", "generated images", f"best {judge.value_name} so far",
                title=title)  # fmt: skip
    found = GenerationStrategy.from_dict(rows[0]["strategy"])
    title = title_of(describe(TrainingStrategy(**rows[0]["training"])), args.num_inference_steps)
    plot_schedules({"found": found, start_label(args): start}, output / f"{name}-schedules.png", title)
    trained = len({(trial.params["alpha"], trial.params["beta"]) for trial in complete_trials(study)})
    return name, {"floor": floor, **recipe, "trials": len(complete_trials(study)), "models_trained": trained, "rows": rows,
                  "best_so_far": curve}  # fmt: skip


def training(args, judge, pipeline, storage, output):
    """p(r): all Beta candidates of the grid, arccos and fixed 0.8, trained alike and scored with one strategy"""
    train = candidate_trainer(args)
    strategies = [TrainingStrategy(a, b) for a, b in itertools.product(args.alphas, args.betas)]
    candidates = {describe(one): one for one in [*strategies, TrainingStrategy.arccos(), TrainingStrategy.fixed(0.8)]}
    strategy = start_strategy(args, args.num_inference_steps, None)
    recipe = {"training": train.recipe, "strategy": strategy.to_dict()}
    name = args.study_name or f"training-strategies-T{args.num_inference_steps}"
    identity = judge.confirm_identity(**recipe, **as_identity(candidates))
    ranked = score_candidates(storage, name, identity, candidates, judge.training_score(train, strategy, confirm=True))
    title = title_of("trained candidates", args.num_inference_steps, args.confirm_images)
    errors = {one.label: error_of(one.record["values"], judge.value_name) for one in ranked}
    bars = {one.label: one.value for one in ranked}
    plot_bars(bars, output / f"{name}.png", judge.value_name, title=title, errors=errors)
    return name, {
        **recipe,
        "rows": [
            {"label": one.label, **one.strategy.to_dict(), "value": one.value, "values": one.record["values"]}
            for one in ranked
        ],
    }


def result(args, judge: Judge, data: dict) -> dict:
    settings = {
        key: getattr(args, key) for key in ("num_inference_steps", "num_trials", "start") if hasattr(args, key)
    }
    confirmed = {"confirm_images": args.confirm_images, "confirm_seed": args.confirm_seed}
    return {
        "experiment": args.experiment,
        "metric_name": judge.value_name,
        **judge.identity(),
        **judge.second_identity(),
        **settings,
        **confirmed,
        **data,
        **made_on(),
    }


def made_on() -> dict:
    return {"hardware": hardware(), "versions": versions("torch", "diffusers", "optuna")}


def save(args, judge: Judge, name: str, data: dict) -> None:
    """Write what is known so far."""
    with writing(args.output):
        write_json(Path(args.output, f"{name}.json"), result(args, judge, data))


def run(args):
    check(args)
    storage, output = open_storage(storage_location(args)), Path(args.output)
    pipeline = load_judged(args) if "pipeline" in args else None
    judge = judge_of(args, pipeline)
    name, data = args.run(args, judge, pipeline, storage, output)
    save(args, judge, name, data)
    print(f"Written to {output}/{name}.json and its plots")


if __name__ == "__main__":
    main_of_script(run, parse_args())
