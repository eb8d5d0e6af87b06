"""`diffusers-autonat plot`."""

from __future__ import annotations

import argparse
import csv
import json
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_line import positive
from .arguments import add_generation_arguments, add_text_encoder_argument, check_writable, chosen_strategy


if TYPE_CHECKING:
    from ..search.constraints import Constraint


# What a history of `train_vqgan.py` or `train_autonat.py` holds, as a reader knows it.
CURVES = {
    "loss": "loss (nats per token)", "token_accuracy": "masked-token accuracy", "l1": "absolute error of pixels in [0, 1]",
    "perceptual": "perceptual distance", "discriminator": "discriminator's loss (1: no opinion)", "codes_used": "codes in use",
    "perplexity": "perplexity of the codes",
}  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Draw a strategy, a search, a training, or the steps in which an image is made."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError('plot needs matplotlib: pip install "diffusers-autonat[train]"') from None
    check_writable(args.output)
    args.draw(args)
    print(f"saved to {args.output}")


def plot_strategy(args: argparse.Namespace) -> None:
    """The schedules of strategies over their steps, against the heuristic."""
    from ..plots import plot_schedules
    from ..strategies import GenerationStrategy
    from ..strategy_files import read_strategies

    drawn: dict[str, Any] = {}
    for source in args.sources:
        config = Path(source, "scheduler", "scheduler_config.json")
        if Path(source, "policy").is_dir():
            print(f"{source} has a policy, which decides in the place of what is drawn: train plot-policy shows it")
        path = config if config.is_file() else Path(source, config.name) if Path(source).is_dir() else Path(source)
        for strategy in read_strategies(path):
            if args.num_inference_steps in (None, strategy.num_inference_steps):
                drawn[f"{Path(source).resolve().name}, T = {strategy.num_inference_steps}"] = strategy
    if not drawn:
        raise ValueError(f"{', '.join(args.sources)}: no strategy of {args.num_inference_steps} steps.")
    if len({type(strategy) for strategy in drawn.values()}) > 1:
        raise ValueError("strategies of several orders have different schedules: draw them one by one.")
    if isinstance(next(iter(drawn.values())), GenerationStrategy):
        for steps in sorted({strategy.num_inference_steps for strategy in drawn.values()}):
            drawn[f"cosine heuristic, T = {steps}"] = GenerationStrategy.cosine(steps)
    plot_schedules(drawn, args.output, args.title)


def plot_search(args: argparse.Namespace) -> None:
    """The trials of a search and the best so far, or the front of quality against cost; of several searches the best so far."""
    from .. import plots
    from ..search.constraints import Constraint

    searches = [read_search(Path(folder)) for folder in args.folders]
    name = searches[0][0]["metric_name"]
    if any(result["metric_name"] != name for result, _, _ in searches):
        raise ValueError("these searches are about different distances: draw them one by one.")
    title = args.title or ", ".join(dict.fromkeys(result["study"] for result, _, _ in searches))
    if len(searches) == 1:
        result, trials, populations = searches[0]
        constraint = Constraint.parse(result["constraint"]) if "constraint" in result else None
        called = name if constraint is None else constraint.penalised_name(name)
        if len(next(iter(trials.values()))) == 2:
            groups = {f"search, N = {result['search']['num_images']:,}": [(v[0], v[1]) for v in trials.values()]}
            errors = {}
            if result["confirmed"]:
                label = f"confirmed, N = {result['num_images']:,}"
                groups[label] = [(counted(row, name, constraint), row["macs"]) for row in result["candidates"]]
                errors[label] = [row["values"].get(f"{name}_error") for row in result["candidates"]]
            return plots.plot_front(groups, args.output, called, "multiply-accumulates per image", title, errors)
        title = f"{title}, N = {result['search']['num_images']:,}"
        values = {number: v[0] for number, v in trials.items()}
        return plots.plot_search(values, args.output, called, title=title, populations=populations)
    if any(len(values) == 2 for _, trials, _ in searches for values in trials.values()):
        raise ValueError("the front of a search with two objectives is drawn alone: name one folder.")
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for result, trials, populations in searches:
        images = result["search"]["num_images"]
        drawn = [((i + 1) * images, number) for i, number in enumerate(sorted(trials)) if number not in populations]
        best = accumulate((trials[number][0] for _, number in drawn), min)
        curves.setdefault(result["sampler"], []).append([(x, value) for (x, _), value in zip(drawn, best)])
    plots.plot_curves(
        curves, args.output, "generated images", f"best {name} so far (range over seeds)", title=args.title
    )


def counted(row: dict[str, Any], name: str, constraint: Constraint | None) -> float:
    """What a candidate counts, as trials do: more than its distance where it misses a constraint."""
    return row["value"] if constraint is None else constraint.penalised(row["values"][name], row["values"])


def read_search(folder: Path) -> tuple[dict[str, Any], dict[int, list[float]], set[int]]:
    """What a search's folder says of itself, the values of its trials by their numbers, and which are of a population."""
    if folder.is_dir() and not (folder / "result.json").exists():  # which a search writes in the end
        raise ValueError(
            f"{folder} holds no finished search yet: let it end, run its command again where it was stopped, or name the --output "
            "of one that has ended."
        )
    try:
        result = json.loads((folder / "result.json").read_text())
        with (folder / "trials.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["state"] == "COMPLETE"]
        names = ["value"] if rows and "value" in rows[0] else ["values_0", "values_1"]
        trials = {int(row["number"]): [float(row[name]) for name in names] for row in rows}
        populations = {int(row["number"]) for row in rows if row.get("population") == "True"}
        result["metric_name"], result["study"], result["sampler"], result["search"]["num_images"], result["candidates"]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{folder} holds no results of `search generation` ({error}).") from None
    if not trials:
        raise ValueError(f"{folder} holds no finished trial: let the search go on.")
    return result, trials, populations


def plot_training(args: argparse.Namespace) -> None:
    """The curves of a training, which its output folder holds as history.jsonl, or of several over each other."""
    from ..plots import plot_history
    from ..training.loop import History

    paths = [Path(folder, "history.jsonl") if Path(folder).is_dir() else Path(folder) for folder in args.folders]
    names = [Path(folder).resolve().name.removesuffix(".jsonl") for folder in args.folders]
    if len(set(names)) < len(names):
        raise ValueError(f"curves are named after folders, and these are not different: {', '.join(names)}.")
    histories = {name: History.read(path) for name, path in zip(names, paths)}
    rows = {name: {key for row in history for key in row} for name, history in histories.items()}
    for name, path in zip(names, paths):
        if not CURVES.keys() & rows[name]:
            raise ValueError(f"{path} holds no curve: name the --output_dir of a training.")
    values = {key: [row[key] for history in histories.values() for row in history if key in row] for key in CURVES}
    # A flat line says nothing; one row, of a training that has just begun, is all that there is.
    columns = {key: CURVES[key] for key, of in values.items() if len(set(of)) > 1 or len(of) == 1}
    plot_history(histories, args.output, columns, args.title or ", ".join(names))


def plot_steps(args: argparse.Namespace) -> None:
    """The guess of an image and its masked tokens after each step, as a strip, or animated where --output ends in .webp."""
    import torch

    from .. import plots
    from ..loading import default_device, load_pipeline
    from ..pipelines.prompts import takes_prompts
    from ..pipelines.step_record import StepRecord

    pipe = load_pipeline(args.pipeline, device=default_device(), text_encoder=args.text_encoder)
    strategy = chosen_strategy(args, pipe)
    wanted = args.prompt if takes_prompts(pipe) else args.class_label
    if wanted is None:
        raise ValueError(
            f"{args.pipeline} needs {'--prompt TEXT' if takes_prompts(pipe) else '--class-label NAME or id'}."
        )
    wanted = int(wanted) if not takes_prompts(pipe) and wanted.isdigit() else wanted
    record = StepRecord()
    pipe(
        [wanted], num_inference_steps=args.num_inference_steps, strategy=strategy, guidance_scale=args.guidance_scale,
        generator=torch.Generator().manual_seed(args.seed), callback_on_step_end=record,
    )  # fmt: skip
    images, masks = record.pictures(pipe)
    plots.plot_steps(images, masks, args.output, args.title or f"{Path(args.pipeline).resolve().name}: {wanted}")


def register(commands) -> None:
    command = commands.add_parser(
        "plot", help="draw strategies, searches, trainings and steps", description=run.__doc__
    )
    kinds = command.add_subparsers(required=True, metavar="WHAT")
    for name, draw in (
        ("strategy", plot_strategy),
        ("search", plot_search),
        ("training", plot_training),
        ("steps", plot_steps),
    ):
        one = kinds.add_parser(name, help=draw.__doc__, description=draw.__doc__)
        one.add_argument("--output", required=True, metavar="FILE", help="the picture; one of that name is replaced")
        one.add_argument("--title", help="of the picture; default: what is drawn")
        one.set_defaults(run=run, draw=draw)
        if draw is plot_strategy:
            one.add_argument(
                "sources", nargs="+", metavar="SOURCE", help="strategy files, folders of searches or pipelines"
            )
            one.add_argument("--num-inference-steps", type=positive, help="default: all that are stored")
        elif draw is plot_search:
            one.add_argument(
                "folders",
                nargs="+",
                metavar="FOLDER",
                help="--output of `search generation`; several: seeds, samplers",
            )
        elif draw is plot_training:
            one.add_argument(
                "folders",
                nargs="+",
                metavar="FOLDER",
                help="--output_dir of a training, or its history.jsonl; several are drawn over each other",
            )
        else:
            one.add_argument("pipeline", help="folder or Hub id")
            one.add_argument("--class-label", help="id or name")
            one.add_argument("--prompt", metavar="TEXT", help="of a pipeline that draws from text")
            add_text_encoder_argument(one)
            add_generation_arguments(one)
