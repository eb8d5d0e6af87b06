#!/usr/bin/env python
"""The studies behind docs/search.md, one command each; results go to --output as JSON and plots.

    python search/experiments.py baseline PIPELINE ...    the heuristic with lambda and k tuned by a grid
    python search/experiments.py samplers PIPELINE ...    samplers at equal numbers of generated images, several seeds
    python search/experiments.py free PIPELINE ...        which of r, tau1, tau2, s matter (Table 6e of the paper)
    python search/experiments.py orders PIPELINE ...      orders of revealing tokens, each with its own schedules searched
    python search/experiments.py concurrent ... -- ...    p(r) and the generation strategy in one search (Table 6c)
    python search/experiments.py training ... -- ...      p(r): Beta candidates, arccos, fixed 0.8 (Tables 2 and 6a)

Each can be killed and run again, and run several times at once. Compare `concurrent` with search/search_alternating.py given
the same training arguments and candidates folder.
"""

import itertools
from pathlib import Path

import optuna
from arguments import (
    add_evaluation_arguments,
    add_pipeline_arguments,
    add_start_arguments,
    add_study_arguments,
    add_training_arguments,
    as_identity,
    candidate_trainer,
    constraint_of,
    given_settings,
    judge_of,
    load_judged,
    main_of_script,
    parse_args_before_dashes,
    pipeline_identity,
    start_label,
    start_strategy,
    storage_location,
    title_of,
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
from diffusers_autonat.cost import CostVaries, pipeline_cost
from diffusers_autonat.files import write_json
from diffusers_autonat.metrics import Report
from diffusers_autonat.plots import plot_bars, plot_curves, plot_schedules
from diffusers_autonat.search.confirm import Scored, score_candidates
from diffusers_autonat.search.generation import Found, search_generation
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.objective import StrategyObjective
from diffusers_autonat.search.report import save_trials, writing
from diffusers_autonat.search.samplers import SAMPLERS, make_sampler, make_space, sampler_names
from diffusers_autonat.search.spaces import SCHEDULE_NAMES, training_space
from diffusers_autonat.search.strategy_spaces import FixedStepsSpace
from diffusers_autonat.search.study import complete_trials, open_storage, open_study, run_study, wait_for_workers
from diffusers_autonat.search.training import describe
from diffusers_autonat.strategies import Strategy, strategy_from_dict
from diffusers_autonat.training.recipes import heuristic_of


ORDERS = {
    "confidence": NATScheduler,
    "Halton": HaltonScheduler,
    "random": RandomScheduler,
    "dilated": DilatedScheduler,
    "entropy-bounded": EntropyBoundedScheduler,
    "ReMDM": ReMDMScheduler,
}
SEEDS = 1_000  # between the seeds of two repetitions, which are also those of their noise


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
        if run is samplers:
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
        add_evaluation_arguments(command)
        add_study_arguments(command)
    return parse_args_before_dashes(parser)


def floor_of(args, judge: Judge) -> float | None:
    """Distance of the tokenizer's reconstructions, below which no strategy can go."""
    if args.floor is None:
        return None
    values = Report.load(args.floor).values
    if judge.value_name not in values:
        raise ValueError(f"--floor {args.floor} has no {judge.value_name}, only {', '.join(values)}")
    return values[judge.value_name]


def share_closed(value: float, baseline: float, floor: float | None) -> float | None:
    """Share of the gap between the baseline and the floor that is closed."""
    return None if floor is None else round((baseline - value) / (baseline - floor), 4)


def one_search(args, judge, pipeline, storage, name, sampler_name, seed, free=SCHEDULE_NAMES, start=None) -> Found:
    start = start or start_strategy(args, args.num_inference_steps, pipeline)
    space = make_space(sampler_name, start, free)
    sampler = make_sampler(sampler_name, space.parameters, args.num_trials, seed)
    of_pipeline = pipeline_identity(pipeline, args.num_inference_steps)
    score = judge.score(pipeline)
    score.seed = seed
    identity = {
        **judge.identity(**of_pipeline, sampler=sampler_name, free=list(free), start=start.to_dict()),
        "seed": seed,
    }
    return search_generation(
        storage, name, identity, space, SAMPLERS[sampler_name].score(score, space), sampler, args.num_trials, confirm_score=judge.confirm_score(pipeline),
        confirm_identity=judge.confirm_identity(**of_pipeline), confirm_top=args.confirm_top,
    )  # fmt: skip


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
    if args.experiment in ("samplers", "free", "orders") and args.confirm_top < 1:
        raise ValueError("--confirm-top 0: searches are compared by confirmed values")
    if args.experiment == "baseline":
        heuristics(args)
    elif args.experiment == "orders":
        if args.start != "heuristic":
            raise ValueError(f"--start {args.start}: each order is searched from its own heuristic; leave it out")
    elif args.start != "stored":
        start = start_strategy(args, args.num_inference_steps, None)
        for name in getattr(args, "samplers", [getattr(args, "sampler", "random")]):
            space = make_space(name, start)
            SAMPLERS[name].check(args.num_images, space, constraint_of(args))
            make_sampler(name, space.parameters, getattr(args, "num_trials", 1), args.seed)
            if args.redraw_noise and not SAMPLERS[name].redraw_noise:
                raise ValueError(f"--redraw-noise: {name} compares values of several rounds; leave it out")
    if args.experiment in ("concurrent", "training"):
        candidate_trainer(args)
        training_space(TrainingStrategy(args.start_alpha, args.start_beta), args.alphas, args.betas)


def confirmed_start(args, judge, pipeline, storage, name, start=None) -> Scored:
    """The start, which all searches of an experiment share and which is hence measured once."""
    start = start or start_strategy(args, args.num_inference_steps, pipeline)
    name = f"{name}-start-{args.confirm_images}-{args.confirm_seed}"
    identity = judge.confirm_identity(**pipeline_identity(pipeline, args.num_inference_steps))
    [scored] = score_candidates(storage, name, identity, {"start": start}, judge.confirm_score(pipeline))
    return scored


def best_so_far(study: optuna.Study, spent: str = "num_images") -> list[tuple[float, float]]:
    """(images or `passes` so far, best value) after each trial, in the order in which they were finished."""
    trials = sorted(complete_trials(study), key=lambda trial: trial.datetime_complete)
    best = itertools.accumulate((trial.values[0] for trial in trials), min)
    return list(zip(itertools.accumulate(trial.user_attrs[spent] for trial in trials), best))


def row_of(found: Found, start: Scored, floor: float | None) -> dict:
    best = min(found.candidates[0], start, key=lambda scored: scored.value)
    return {
        "study": found.study.study_name, "trials": len(complete_trials(found.study)), "best": best.label,
        "value": best.value, "start_value": start.value, "values": best.record["values"], "start_values": start.record["values"],
        "share_of_gap_closed": share_closed(best.value, start.value, floor), "strategy": best.strategy.to_dict(),
        "passes": sum(trial.user_attrs.get("passes", 0) for trial in complete_trials(found.study)),
    }  # fmt: skip


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
    floor = floor_of(args, judge)
    title = title_of(args.pipeline, args.num_inference_steps, args.num_images)
    name, rows = args.study_name or f"samplers-T{args.num_inference_steps}", []
    by_images, by_passes = {}, {}
    start = confirmed_start(args, judge, pipeline, storage, name)
    for repetition, sampler in itertools.product(range(args.repetitions), args.samplers):
        seed = args.seed + SEEDS * repetition
        found = one_search(args, judge, pipeline, storage, f"{name}-{sampler}-seed{seed}", sampler, seed)
        rows.append({"sampler": sampler, "seed": seed, **row_of(found, start, floor)})
        by_images.setdefault(sampler, []).append(best_so_far(found.study))
        by_passes.setdefault(sampler, []).append(best_so_far(found.study, "passes"))
        best = f"best {judge.value_name} so far"
        plot_curves(by_images, output / f"{name}.png", "generated images", best, title=title)
        plot_curves(
            by_passes, output / f"{name}-passes.png", "images that went through the transformer", best, title=title
        )
        data = {"floor": floor, "rows": rows, "best_so_far": by_images, "best_so_far_by_passes": by_passes}
        save(args, judge, name, data)
    means = {s: sum(r["value"] for r in rows if r["sampler"] == s) / args.repetitions for s in args.samplers}
    title = title_of(args.pipeline, args.num_inference_steps, args.confirm_images)
    plot_bars(means, output / f"{name}-confirmed.png", f"{judge.value_name}, confirmed", floor, title)
    return name, {**data, "confirmed_means": means}


def free(args, judge, pipeline, storage, output):
    """which of r, tau1, tau2, s matter: all searched, all but each, and each alone"""
    floor = floor_of(args, judge)
    title = title_of(args.pipeline, args.num_inference_steps, args.confirm_images)
    name, rows = args.study_name or f"free-T{args.num_inference_steps}", []
    start = confirmed_start(args, judge, pipeline, storage, name)
    searched = {
        "all": SCHEDULE_NAMES,
        **{f"all but {one}": tuple(other for other in SCHEDULE_NAMES if other != one) for one in SCHEDULE_NAMES},
        **{one: (one,) for one in SCHEDULE_NAMES},
    }
    for label, schedules in searched.items():
        study_name = f"{name}-{label.replace(' ', '-')}"
        found = one_search(args, judge, pipeline, storage, study_name, args.sampler, args.seed, schedules)
        rows.append({"free": list(schedules), "label": label, **row_of(found, start, floor)})
        bars = {start_label(args): start.value, **{row["label"]: row["value"] for row in rows}}
        plot_bars(bars, output / f"{name}.png", f"{judge.value_name}, confirmed", floor, title)
        save(args, judge, name, {"floor": floor, "rows": rows})
    return name, {"floor": floor, "rows": rows}


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
    floor, steps = floor_of(args, judge), args.num_inference_steps
    name, rows = args.study_name or f"orders-T{steps}", []
    for label, order in ORDERS.items():
        pipeline.scheduler = order(pipeline.scheduler.config.mask_token_id)
        start = start_of_order(args, pipeline)
        free = [key for key, values in start.to_dict().items() if any(values)]  # tau2 is 0 where it has no effect
        before = confirmed_start(args, judge, pipeline, storage, f"{name}-{label}", start)
        found = one_search(args, judge, pipeline, storage, f"{name}-{label}", args.sampler, args.seed, free, start)
        row = {"order": label, "free": free, **row_of(found, before, floor)}
        rows.append({**row, "macs": cost_of(pipeline, row["strategy"])})
        bars = {row["order"]: row["value"] for row in rows}
        title = title_of(args.pipeline, steps, args.confirm_images)
        plot_bars(bars, output / f"{name}.png", f"{judge.value_name}, confirmed", floor, title)
        save(args, judge, name, {"floor": floor, "rows": rows})
    return name, {"floor": floor, "rows": rows}


def cost_of(pipeline, strategy: dict) -> float | None:
    """Multiply-accumulates of an image, where they are the same for all."""
    try:
        return pipeline_cost(pipeline, strategy_from_dict(strategy)).total
    except CostVaries:
        return None


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
    plot_bars({one.label: one.value for one in ranked}, output / f"{name}.png", judge.value_name, title=title)
    return name, {
        **recipe,
        "rows": [{"label": one.label, **one.strategy.to_dict(), "value": one.value} for one in ranked],
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
    }


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
