#!/usr/bin/env python
r"""Search the generation strategy of a pipeline: r, tau1, tau2 and s of each step.

    diffusers-autonat search generation PIPELINE --num-inference-steps 4 --reference REFERENCE.npz \
        --feature-extractor EXTRACTOR --output outputs/search-T4

Run the same command again to resume, and any number of times at once to share the work; on several machines give all
the same `--storage`. With `--objective distance,cost` and several numbers of steps the result is the Pareto front of
quality against multiply-accumulates. `optuna-dashboard outputs/search-T4/search.journal` shows the study.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arguments import (
    add_evaluation_arguments,
    add_knots_argument,
    add_num_trials_argument,
    add_pipeline_arguments,
    add_start_arguments,
    add_study_arguments,
    add_upload_arguments,
    judge_of,
    load_judged,
    main_of_script,
    make_search,
    num_trials_of,
    open_upload,
    pipeline_identity,
    save_card,
    start_label,
    start_strategy,
    storage_location,
    upload,
)

from diffusers_autonat import NATScheduler
from diffusers_autonat.command_line import Parser, positive, print_table
from diffusers_autonat.commands.arguments import check_writable
from diffusers_autonat.cost import pipeline_cost
from diffusers_autonat.files import write_json
from diffusers_autonat.plots import plot_front, plot_schedules, plot_search, title_of
from diffusers_autonat.search.confirm import Scored
from diffusers_autonat.search.gains import comparison, distance_of, error_of, gains_of, missed_by, unseen
from diffusers_autonat.search.generation import Found, rung_pruner, search_generation
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.objective import is_population
from diffusers_autonat.search.report import origin_of, save_trials, writing
from diffusers_autonat.search.samplers import DEFAULT_SAMPLER, SAMPLERS, make_sampler, sampler_names
from diffusers_autonat.search.strategy_folder import EARLIER, STORED, StrategyFolder
from diffusers_autonat.search.strategy_spaces import AnyStepsSpace
from diffusers_autonat.search.study import complete_trials, open_storage
from diffusers_autonat.strategies import Strategy


BEFORE = {  # the search, by the labels of candidates
    "start": "the start",
    STORED: "what the pipeline has stored",
    EARLIER: "what an earlier search has left",
}


def parse_args():
    parser = Parser(description=__doc__)
    add_pipeline_arguments(parser)
    parser.add_argument(
        "--num-inference-steps", type=positive, nargs="+", default=[8], help="several with a cost only"
    )
    parser.add_argument("--free", nargs="+", help="which schedules are searched; default: all")
    add_knots_argument(parser)
    parser.add_argument("--objective", choices=["distance", "distance,cost"], default="distance", metavar="{distance,cost}",
                        help="distance, or with a comma both: the front of quality against multiply-accumulates")  # fmt: skip
    parser.add_argument(
        "--sampler", choices=SAMPLERS, help=f"default: {DEFAULT_SAMPLER}, with a cost nsga2; released: the paper's"
    )
    add_num_trials_argument(parser, "of all workers together")
    parser.add_argument("--rungs", type=positive, nargs="+", help="numbers of images at which bad trials are given up")
    parser.add_argument("--write-to-pipeline", action="store_true", help="store the result in the pipeline folder too")
    parser.add_argument("--force", action="store_true", help="store what was found even if what is stored is better")
    add_start_arguments(parser)
    add_evaluation_arguments(parser)
    add_study_arguments(parser)
    add_upload_arguments(parser)
    args = parser.parse_args()
    args.sampler = args.sampler or (DEFAULT_SAMPLER if args.objective == "distance" else "nsga2")
    args.num_trials = num_trials_of(args)
    return args


def check(args):
    sampler = SAMPLERS[args.sampler]
    if args.objective == "distance" and len(args.num_inference_steps) > 1:
        raise ValueError(f"--num-inference-steps {args.num_inference_steps}: several need --objective distance,cost")
    if args.objective == "distance,cost" and 2 not in sampler.num_objectives:
        raise ValueError(
            f"--sampler {args.sampler} has one objective; with a cost there are {', '.join(sampler_names(2))}"
        )
    if args.objective == "distance" and 1 not in sampler.num_objectives:
        raise ValueError(f"--sampler {args.sampler} is for --objective distance,cost")
    if args.knots and args.objective != "distance":
        raise ValueError("--knots: with a cost, schedules go through as many values as the shortest has steps")
    if args.metric not in sampler.metrics:
        raise ValueError(f"--sampler {args.sampler} follows {', '.join(sampler.metrics)}, not --metric {args.metric}")
    if args.redraw_noise and not sampler.redraw_noise:
        raise ValueError(
            f"--redraw-noise: {args.sampler} compares values of several rounds, or draws anew by itself: leave it out, or "
            "take --sampler released"
        )
    if args.rungs and (args.objective != "distance" or not sampler.rungs):
        able = ", ".join(name for name, kind in SAMPLERS.items() if kind.rungs)
        raise ValueError(f"--rungs go with one objective and the samplers {able}, not {args.sampler}")
    if args.rungs and (sorted(set(args.rungs)) != args.rungs or args.rungs[-1] >= args.num_images):
        raise ValueError(f"--rungs {args.rungs} must rise and stay below --num-images {args.num_images}")
    if args.write_to_pipeline:
        if not Path(args.pipeline, "scheduler").is_dir():
            raise ValueError(f"--write-to-pipeline: {args.pipeline} is not a local pipeline folder")
        if not args.confirm_top and not args.force:
            raise ValueError(
                "--write-to-pipeline: without a confirmation nobody knows whether what is stored is better; --force"
            )
        check_writable(str(Path(args.pipeline, "scheduler", NATScheduler.config_name)))


def run(args):
    # 1. Everything that can be wrong, before the first image
    check(args)
    storage = open_storage(storage_location(args))
    pipeline = load_judged(args)
    of_pipeline = pipeline_identity(pipeline, args.num_inference_steps)
    stored, earlier = (
        StrategyFolder(folder, label, pipeline.scheduler, of_pipeline["pipeline"])
        for folder, label in ((Path(args.pipeline, "scheduler"), STORED), (args.output, EARLIER))
    )
    if not args.confirm_top and not args.force and (steps := earlier.confirmed(args.num_inference_steps)):
        raise ValueError(
            f"--confirm-top 0: {earlier.path} has a confirmed strategy of {steps} steps, which may be better than what nobody "
            "confirms; name another --output, or --force"
        )
    starts = [start_strategy(args, steps, pipeline) for steps in args.num_inference_steps]
    also = {start_of(start): start for start in starts}
    free = args.free or list(starts[0].to_dict())
    with_cost = args.objective == "distance,cost"
    if with_cost:
        knots, space = None, AnyStepsSpace(starts, free)
        sampler = make_sampler(args.sampler, space.parameters, args.num_trials, args.seed, space.first_points())
    else:
        knots, space, sampler = make_search(args, args.sampler, starts[0], args.seed, free)
        if not space.start.acts_as(starts[0]):
            also[f"{start_of(starts[0])}, as curves"] = space.start
    open_upload(args)
    judge = judge_of(args, pipeline)
    score = judge.score(pipeline, args.rungs)
    if not with_cost:
        score = SAMPLERS[args.sampler].score(score, space)

    name = args.study_name or "-".join([args.sampler, *(f"T{steps}" for steps in args.num_inference_steps)])

    # 2. Search and confirm
    identity = judge.identity(
        **of_pipeline,
        objective=args.objective,
        sampler=args.sampler,
        free=list(free),
        start=[start.to_dict() for start in (starts if with_cost else [space.start])],
        rungs=args.rungs or [],
        **({} if knots is None else {"knots": knots}),
    )
    found = search_generation(
        storage,
        name,
        identity,
        space,
        score,
        sampler,
        args.num_trials,
        cost=(lambda strategy: pipeline_cost(pipeline, strategy).total) if with_cost else None,
        pruner=rung_pruner() if args.rungs else None,
        confirm_score=judge.confirm_score(pipeline) if args.confirm_top else None,
        confirm_identity=judge.confirm_identity(**of_pipeline),
        confirm_top=args.confirm_top or (args.num_trials if with_cost else 1),  # unconfirmed, the whole front
        also=also,
        stored=stored.candidates(args.num_inference_steps) | earlier.candidates(args.num_inference_steps),
    )

    # 3. Report
    with writing(args.output):
        report(args, found, pipeline, judge, starts, [earlier, stored])


def start_of(start) -> str:
    """What a start is called among the candidates."""
    return f"start, T = {start.num_inference_steps}"


def report(
    args, found: Found, pipeline, judge: Judge, starts: Sequence[Strategy], folders: Sequence[StrategyFolder]
) -> None:
    """
    Write what was found.

    Args:
        starts: As they were named. folders: That of --output, where it is stored, and the pipeline's.
    """
    output, name = Path(args.output), judge.value_name
    confirmed = {"num_images": args.confirm_images, "seed": args.confirm_seed} if found.confirmed else {}
    rows = [
        {"label": one.label, "value": distance_of(one, name), "num_inference_steps": one.strategy.num_inference_steps,
         "macs": pipeline_cost(pipeline, one.strategy).total, "values": one.record["values"],
         "strategy": one.strategy.to_dict()}
        for one in found.candidates
    ]  # fmt: skip
    origin = origin_of(
        judge.identity(**confirmed), pipeline, study=found.study.study_name, sampler=args.sampler,
        **(judge.second_identity() if found.confirmed else {}), confirmed=found.confirmed,
        search={"num_images": args.num_images, "seed": args.seed, "num_trials": len(complete_trials(found.study))},
    )  # fmt: skip
    save_trials(found.study, output / "trials.csv")
    tables, notes, written = {}, [], [output]
    for start in starts:
        steps = start.num_inference_steps
        same = [one for one in found.candidates if one.strategy.num_inference_steps == steps]
        if not same:
            continue
        same.sort(key=lambda one: one.value)
        best, of_trial, doubts = chosen(args, same, judge, found.confirmed)
        for doubt in doubts:
            notes.append(f"T = {steps}: {doubt}.")
            warnings.warn(notes[-1], stacklevel=2)
        if (kept := BEFORE.get(best.label.partition(",")[0])) is not None:
            notes.append(f"T = {steps}: nothing better than {kept} was found, so that is what this folder has.")
            print(notes[-1])
        said = of_trial | origin
        for folder in folders:
            if folder.has_candidate(best):  # of which it says more than this search knows
                said = folder.said_of(best.strategy) or said
        for folder in folders if args.write_to_pipeline else folders[:1]:
            if folder.keeps(best, origin):
                print(f"T = {steps}: {folder.path} stays as it is")
            else:
                folder.store(best.strategy, said)
                written.append(folder.path)
        write_json(output / f"strategy-T{steps}.json", best.strategy.to_dict())
        suffix = f"-T{steps}" if args.objective == "distance,cost" else ""
        called = f"found ({best.label})" if best.label.startswith("trial") else best.label
        drawn = {called: best.strategy, start_label(args): start}
        plot_schedules(drawn, output / f"schedules{suffix}.png", title_of(args.pipeline, steps))
        print(
            f"T = {steps}: {name} {of_trial['value']:.4f} ({best.label}{', fresh noise' if found.confirmed else ''})"
        )
        if found.confirmed:
            tables[steps] = comparison(same, name, judge.second_name, judge.constraint)
            print_table(*tables[steps])
        else:
            tables[steps] = ["strategy", name], [[one.label, f"{distance_of(one, name):.4f}"] for one in same]
    write_json(output / "result.json", {"metric_name": name, **origin, "notes": notes, "candidates": rows})
    plot_trials(args, found, judge, rows)
    save_card(args, args.pipeline, pipeline, judge, origin, tables, notes)
    print("Written to " + " and into ".join(map(str, dict.fromkeys(written))))
    upload(args)


def chosen(
    args, same: list[Scored[Strategy]], judge: Judge, confirmed: bool
) -> tuple[Scored[Strategy], dict[str, Any], list[str]]:
    """Of candidates of one T, best first, the one that is stored, what is said of it, and what is to be doubted about it."""
    best, name = same[0], judge.value_name
    if args.force:
        best = next((one for one in same if one.label.startswith("trial")), best)
    said = {"trial": best.label, "metric_name": name, "value": distance_of(best, name)}
    doubts = [f"it {missed}"] if (missed := missed_by(judge.constraint, best)) else []
    if confirmed:
        before = [one for one in same if not one.label.startswith("trial")]
        gains = gains_of(best, before, name, judge.second_name)
        said["gains"] = [gain.to_dict() for gain in gains]
        if judge.second_name is not None:
            said[judge.second_name] = best.record["values"][judge.second_name]
        if doubt := unseen(gains):
            doubts.append(doubt)
    return best, said, doubts


def plot_trials(args, found: Found, judge: Judge, rows: list[dict[str, Any]]) -> None:
    """The value of every trial; with a cost, the front of both, and where the `rows` of candidates are."""
    output, name, trials = Path(args.output), judge.value_name, complete_trials(found.study)
    called = name if judge.constraint is None else judge.constraint.penalised_name(name)
    if args.objective == "distance":
        values = {trial.number: trial.values[0] for trial in trials}
        populations = [trial.number for trial in trials if is_population(trial)]
        title = f"{title_of(args.pipeline, args.num_inference_steps[0], args.num_images)}, {args.sampler}"
        plot_search(values, output / "history.png", called, title=title, populations=populations)
        return
    groups = {f"search, N = {args.num_images:,}": [(trial.values[0], trial.values[1]) for trial in trials]}
    errors = {}
    if found.confirmed:
        label = f"confirmed, N = {args.confirm_images:,}"
        groups[label] = [(one.value, row["macs"]) for one, row in zip(found.candidates, rows)]
        errors[label] = [error_of(row["values"], name) for row in rows]
    title = title_of(args.pipeline, ", ".join(str(steps) for steps in args.num_inference_steps))
    plot_front(groups, output / "front.png", called, "multiply-accumulates per image", title, errors)


if __name__ == "__main__":
    arguments = parse_args()
    main_of_script(run, arguments)
