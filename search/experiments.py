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
import statistics
from functools import partial
from pathlib import Path

import optuna
from arguments import (
    SEEDS,
    add_evaluation_arguments,
    add_knots_argument,
    add_num_trials_argument,
    add_pipeline_arguments,
    add_start_arguments,
    add_study_arguments,
    add_training_arguments,
    as_identity,
    candidate_trainer,
    given_settings,
    judge_of,
    knots_of,
    load_judged,
    main_of_script,
    make_search,
    num_trials_of,
    parse_args_before_dashes,
    pipeline_identity,
    start_label,
    start_strategy,
    storage_location,
)
from compared_searches import ComparedSearches, Searched, best_so_far, cost_of, spent_by
from experiment_results import floor_of, results_of_before, save

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
from diffusers_autonat.files import write_json
from diffusers_autonat.metrics import Report
from diffusers_autonat.plots import plot_bars, plot_curves, plot_schedules, title_of
from diffusers_autonat.search.confirm import score_candidates
from diffusers_autonat.search.gains import distance_of, error_of
from diffusers_autonat.search.interface import SamplerKind
from diffusers_autonat.search.objective import StrategyObjective
from diffusers_autonat.search.report import save_trials, writing
from diffusers_autonat.search.samplers import DEFAULT_SAMPLER, SAMPLERS, make_sampler, make_space, sampler_names
from diffusers_autonat.search.spaces import SCHEDULE_NAMES, training_space
from diffusers_autonat.search.study import complete_trials, open_storage, open_study, run_study, wait_for_workers
from diffusers_autonat.search.training import describe
from diffusers_autonat.strategies import Strategy
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
CURVES = {  # of rows: their unit, and what their plot's name ends with
    "best_so_far": ("generated images", ""),
    "best_so_far_by_passes": ("images that went through the transformer", "-passes"),
}


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
            add_knots_argument(command)
        if run in (free, orders):
            add_num_trials_argument(command, "of each search")
        if run in (samplers, concurrent):
            command.add_argument("--num-trials", type=positive, default=SamplerKind.num_trials, help="of each search")
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
        if run is orders:
            command.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS), help="that are compared")
        if run in (free, orders):
            command.add_argument("--sampler", choices=several, default=DEFAULT_SAMPLER, help="of all searches")
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
    args = parse_args_before_dashes(parser)
    if "num_trials" in args and args.num_trials is None:
        args.num_trials = num_trials_of(args)
    return args


def passes_or_sampler(text: str) -> int | str:
    return text if text in sampler_names() else positive(text)


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
    several = getattr(args, "samplers", [args.sampler] if "sampler" in args else [])
    if args.redraw_noise and (one := next((name for name in several if not SAMPLERS[name].redraw_noise), None)):
        raise ValueError(
            f"--redraw-noise: {one} compares values of several rounds, or draws anew by itself; leave it out"
        )
    if args.experiment == "baseline":
        heuristics(args)
    elif args.experiment == "orders":
        if args.start != "heuristic":
            raise ValueError(f"--start {args.start}: each order is searched from its own heuristic; leave it out")
    elif args.start != "stored":
        start = start_strategy(args, args.num_inference_steps, None)
        for name in several:
            make_search(args, name, start, args.seed)
    if args.experiment in ("concurrent", "training"):
        candidate_trainer(args)
        training_space(TrainingStrategy(args.start_alpha, args.start_beta), args.alphas, args.betas)


def mean_and_deviation(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}


def baseline(args, judge, pipeline, storage, output):
    """the heuristic with lambda, k and, if wanted, tau1 tuned by a grid, the best confirmed on fresh noise"""
    steps = args.num_inference_steps
    of_pipeline = pipeline_identity(pipeline, steps)
    floor, grid = floor_of(args, judge), heuristics(args, pipeline)
    name = args.study_name or f"baseline-T{steps}"
    settings = {**of_pipeline, "floor": floor}
    results_of_before(args, judge, name, settings, grid)
    rows = score_candidates(storage, name, judge.identity(**of_pipeline), grid, judge.score(pipeline))
    winners = {row.label: row.strategy for row in rows[: max(1, args.confirm_top)]}
    confirmed = score_candidates(
        storage, f"{name}-confirm-{args.confirm_images}-{args.confirm_seed}", judge.confirm_identity(**of_pipeline), winners,
        judge.confirm_score(pipeline),
    )  # fmt: skip
    title = title_of(args.pipeline, steps, args.num_images)
    distance = partial(distance_of, name=judge.value_name)
    plot_bars({row.label: distance(row) for row in rows}, output / f"{name}.png", judge.value_name, floor, title)
    return name, {
        **settings, "tuned": confirmed[0].label, "value": distance(confirmed[0]),
        "strategy": confirmed[0].strategy.to_dict(), "macs": cost_of(pipeline, confirmed[0].strategy),
        "grid": [{"label": row.label, "value": distance(row), "values": row.record["values"]} for row in rows],
        "confirmed": [{"label": row.label, "value": distance(row), "values": row.record["values"]} for row in confirmed],
    }  # fmt: skip


def samplers(args, judge, pipeline, storage, output):
    """samplers at equal numbers of generated images"""
    compared = ComparedSearches(args, judge, pipeline, storage, f"samplers-T{args.num_inference_steps}")

    def search(study_name: str) -> Searched:
        searched, within = compared.search(study_name, sampler, seed), args.within_passes
        if isinstance(within, str):  # that of the same seed, which is this search or was made before it
            own = spent_by(searched.study)["passes"]
            within = next((row["passes"] for row in compared.rows if row["seed"] == seed), own)
        return searched._replace(within=within)

    for repetition, sampler in itertools.product(range(args.repetitions), args.samplers):
        seed = args.seed + SEEDS * repetition
        compared.add(f"{sampler}-seed{seed}", {"sampler": sampler, "seed": seed}, search)
        plot_progress(args, judge, compared, output)
    of_samplers = rows_of_samplers(compared)
    found = {one: mean_and_deviation([row["found_value"] for row in rows]) for one, rows in of_samplers.items()}
    if len(found) > 1:
        means = {sampler: one["mean"] for sampler, one in found.items()}
        # Of the means over seeds, which differ by more than the noise of one confirmation.
        errors = {
            one: found[one]["deviation"] and found[one]["deviation"] / len(rows) ** 0.5
            for one, rows in of_samplers.items()
        }
        plot_confirmed(args, judge, compared, means, errors, output / f"{compared.name}-confirmed.png")
    best = min(compared.data["rows"], key=lambda row: row.get("penalised", row["value"]))
    with writing(output):
        write_json(output / f"{compared.name}-strategy.json", best["strategy"])
    return compared.name, {**compared.data, "confirmed": found}


def rows_of_samplers(compared: ComparedSearches) -> dict[str, list[dict]]:
    """With those of before that were not asked for now."""
    rows = compared.data["rows"]
    return {
        one: [row for row in rows if row["sampler"] == one] for one in dict.fromkeys(row["sampler"] for row in rows)
    }


def plot_progress(args, judge, compared: ComparedSearches, output: Path) -> None:
    """How far samplers came with how much; of a single one, whether seeds find the same."""
    title = title_of(args.pipeline, args.num_inference_steps, args.num_images)
    of_samplers = rows_of_samplers(compared)
    if len(args.samplers) > 1 or len(of_samplers) > 1:
        for curve, (unit, suffix) in CURVES.items():
            curves = {sampler: [row[curve] for row in rows] for sampler, rows in of_samplers.items()}
            plot_curves(
                curves, output / f"{compared.name}{suffix}.png", unit, f"best {judge.value_name} so far", title=title
            )
        return
    rows = compared.data["rows"]
    seeds = {f"seed {row['seed']}": strategy_from_dict(row["found_strategy"]) for row in rows}
    start = strategy_from_dict(rows[0]["start_strategy"])
    plot_schedules({**seeds, start_label(args): start}, output / f"{compared.name}.png", title)


def plot_confirmed(args, judge, compared: ComparedSearches, bars: dict, errors: dict, file: Path) -> None:
    title = title_of(args.pipeline, args.num_inference_steps, args.confirm_images)
    plot_bars(bars, file, f"{judge.value_name}, confirmed", compared.gap.floor, title, errors)


def free(args, judge, pipeline, storage, output):
    """which of r, tau1, tau2, s matter: all searched, all but each, and each alone"""
    compared = ComparedSearches(args, judge, pipeline, storage, f"free-T{args.num_inference_steps}")
    kinds = {
        "all": SCHEDULE_NAMES,
        **{f"all but {one}": tuple(other for other in SCHEDULE_NAMES if other != one) for one in SCHEDULE_NAMES},
        **{one: (one,) for one in SCHEDULE_NAMES},
    }

    def search(study_name: str) -> Searched:
        return compared.search(study_name, args.sampler, args.seed, schedules)

    for label, schedules in kinds.items():
        compared.add(label.replace(" ", "-"), {"free": list(schedules), "label": label}, search)
        start, rows = start_label(args), compared.rows
        searched = {
            row["label"] if len(row["free"]) > 1 else f"only {row['label']}": row["found_values"] for row in rows
        }
        values = {start: rows[0]["start_values"], **searched}
        bars = {label: of[judge.value_name] for label, of in values.items()}
        errors = {label: error_of(of, judge.value_name) for label, of in values.items()}
        plot_confirmed(args, judge, compared, bars, errors, output / f"{compared.name}.png")
    return compared.name, compared.data


def start_of_order(args, pipeline) -> Strategy:
    """The order's own heuristic, guided as NATScheduler's cosine is: with a U-ViT orders then differ in nothing else."""
    if isinstance(pipeline.scheduler, NATScheduler):
        return start_strategy(args, args.num_inference_steps, pipeline)
    given = {name: value for name, value in given_settings(args).items() if name == "guidance_scale"}
    start = pipeline.scheduler.heuristic(args.num_inference_steps)
    guidance = GenerationStrategy.cosine(args.num_inference_steps, **given).guidance_scales
    return type(start).from_dict(start.to_dict() | {"guidance_scales": guidance})


def orders(args, judge, pipeline, storage, output):
    """orders of revealing tokens, each with its own schedules searched from its own heuristic, at equal images"""
    compared = ComparedSearches(args, judge, pipeline, storage, f"orders-T{args.num_inference_steps}")

    def search(study_name: str) -> Searched:
        return compared.search(study_name, args.sampler, args.seed, free, start)

    for label in args.orders:
        pipeline.scheduler = ORDERS[label](pipeline.scheduler.config.mask_token_id)
        start = start_of_order(args, pipeline)
        free = [key for key, values in start.to_dict().items() if any(values)]  # tau2 is 0 where it has no effect
        compared.add(label, {"order": label, "free": free}, search, confirmed_alone=True)
        bars = {row["order"]: row["value"] for row in compared.rows}
        errors = {row["order"]: error_of(row[f"{row['best']}_values"], judge.value_name) for row in compared.rows}
        plot_confirmed(args, judge, compared, bars, errors, output / f"{compared.name}.png")
    return compared.name, compared.data


def concurrent(args, judge, pipeline, storage, output):
    """p(r) and the generation strategy in one search, to compare with the alternating one; the best of what is confirmed once more"""
    train, floor = candidate_trainer(args), floor_of(args, judge)
    training = TrainingStrategy(args.start_alpha, args.start_beta)
    grid = training_space(training, args.alphas, args.betas)
    start = start_strategy(args, args.num_inference_steps, None)
    knots = knots_of(args, args.sampler, args.num_inference_steps)
    space = make_space(args.sampler, start, num_knots=knots)
    first = {name: parameter.start for name, parameter in [*grid.items(), *space.parameters.items()]}
    sampler = make_sampler(args.sampler, space.parameters, args.num_trials, args.seed, [first])
    name = args.study_name or f"concurrent-T{args.num_inference_steps}"
    recipe = {"training": train.recipe, "alphas": args.alphas, "betas": args.betas}
    curves = {} if knots is None else {"knots": knots}
    searched = {"start_strategy": start.to_dict(), "sampler": args.sampler, **curves}
    settings = {
        "floor": floor, **recipe, "training": train.shown_recipe, **searched, "fresh_seed": judge.afresh.confirm_seed,
    }  # fmt: skip
    results_of_before(args, judge, name, settings)
    identity = judge.identity(**recipe, sampler=args.sampler, start=start.to_dict(), **curves)
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
        rows.append((row.value, {
            "trial": trial.number, "training": chosen.to_dict(), "value": distance_of(row, judge.value_name),
            "search_value": trial.values[0], "values": row.record["values"], "strategy": strategy.to_dict(),
        }))  # fmt: skip
    rows = [row for _, row in sorted(rows, key=lambda one: one[0])]
    training, found = TrainingStrategy(**rows[0]["training"]), GenerationStrategy.from_dict(rows[0]["strategy"])
    pipeline = judge.load_pipeline(train(training))
    [fresh] = score_candidates(
        storage, f"{name}-fresh-{rows[0]['trial']}-{args.confirm_images}", judge.afresh.confirm_identity(**recipe),
        {describe(training): found}, judge.afresh.confirm_score(pipeline),
    )  # fmt: skip
    with writing(output):
        save_trials(study, output / f"{name}.csv")
    curve = best_so_far(study)
    title = title_of("trained candidates", args.num_inference_steps, args.num_images)
    plot_curves({"concurrent": [curve]}, output / f"{name}.png", "generated images", f"best {judge.value_name} so far",
                title=title)  # fmt: skip
    title = title_of(fresh.label, args.num_inference_steps)
    plot_schedules({"found": found, start_label(args): start}, output / f"{name}-schedules.png", title)
    trained = len({(trial.params["alpha"], trial.params["beta"]) for trial in complete_trials(study)})
    images = spent_by(study)["images"] + len(rows) * args.confirm_images
    return name, {**settings, "trials": len(complete_trials(study)), "images": images, "models_trained": trained, "rows": rows,
                  "fresh_values": fresh.record["values"], "best_so_far": curve}  # fmt: skip


def training(args, judge, pipeline, storage, output):
    """p(r): all Beta candidates of the grid, arccos and fixed 0.8, trained alike and scored with one strategy"""
    train = candidate_trainer(args)
    strategies = [TrainingStrategy(a, b) for a, b in itertools.product(args.alphas, args.betas)]
    candidates = {describe(one): one for one in [*strategies, TrainingStrategy.arccos(), TrainingStrategy.fixed(0.8)]}
    strategy = start_strategy(args, args.num_inference_steps, None)
    recipe = {"training": train.recipe, "strategy": strategy.to_dict()}
    name = args.study_name or f"training-strategies-T{args.num_inference_steps}"
    settings = {**recipe, "training": train.shown_recipe}
    results_of_before(args, judge, name, settings, candidates)
    identity = judge.confirm_identity(**recipe, **as_identity(candidates))
    ranked = score_candidates(storage, name, identity, candidates, judge.training_score(train, strategy, confirm=True))
    title = title_of("trained candidates", args.num_inference_steps, args.confirm_images)
    errors = {one.label: error_of(one.record["values"], judge.value_name) for one in ranked}
    distance = partial(distance_of, name=judge.value_name)
    bars = {one.label: distance(one) for one in ranked}
    plot_bars(bars, output / f"{name}.png", judge.value_name, title=title, errors=errors)
    return name, {
        **settings,
        "rows": [
            {"label": one.label, **one.strategy.to_dict(), "value": distance(one), "values": one.record["values"]}
            for one in ranked
        ],
    }


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
