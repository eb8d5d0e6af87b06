"""`diffusers-autonat cost`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..command_line import positive, print_table


MEASURED_IMAGES = 16  # where what an image costs differs from image to image


def format_macs(macs: float) -> str:
    """Three digits with a unit: 925.8 G."""
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if abs(macs) >= s), (1e3, "k"))
    return f"{macs / size:.3g} {unit}"


def run(args: argparse.Namespace) -> None:
    """Parameters, steps and multiply-accumulates per image, counted by running the models without data."""
    if args.paper == (args.pipeline is not None):
        raise ValueError("pass either a pipeline or --paper.")
    if args.paper and (args.strategy or args.num_inference_steps or args.guidance_scale is not None):
        raise ValueError("--paper has its own steps and strategies: pass it alone.")
    if args.strategy and args.num_inference_steps:
        raise ValueError("a strategy has its own number of steps: pass either --strategy or --num-inference-steps.")
    if args.paper:
        print_paper()
    else:
        print_pipeline(args)


def print_pipeline(args: argparse.Namespace) -> None:
    from ..cost import CostVaries, pipeline_cost
    from ..loading import load_pipeline
    from ..strategy_files import read_strategies

    guidance_scale = 1.0 if args.guidance_scale is None else args.guidance_scale
    if not guidance_scale >= 0:
        raise ValueError(f"--guidance-scale {guidance_scale} must not be negative; 0 turns guidance off.")
    given = [strategy for path in args.strategy for strategy in read_strategies(path)]
    pipe = load_pipeline(args.pipeline)
    if pipe.vqvae is None:
        raise ValueError(f"{args.pipeline} has no tokenizer, whose decoder is part of what an image costs.")
    class_name = type(pipe).__name__
    # As images are made: by the policy where no strategy is passed.
    own = [] if pipe.policy is None else [pipe.policy.config.num_inference_steps]
    steps = args.num_inference_steps or own or sorted(pipe.scheduler.stored_strategies) or [8]
    strategies = given or [None if T in own else pipe.scheduler.get_strategy(T) for T in steps]

    print(
        f"{class_name}: {pipe.transformer.num_parameters():,} parameters in the transformer, "
        f"{pipe.vqvae.num_parameters():,} in the tokenizer"
        + (f", {pipe.policy.num_parameters():,} in the policy" if pipe.policy is not None else "")
    )
    try:
        costs = [pipeline_cost(pipe, strategy, guidance_scale) for strategy in strategies]
    except CostVaries:
        if class_name != "AutoNATPipeline":  # others need more than a class to make an image
            raise
        return print_measured(pipe, strategies, guidance_scale)
    print_table(
        ["steps", "guided", "per image", "transformer", "decoder", "without attention", "saved by unguided steps"],
        [
            [
                cost.num_inference_steps, cost.num_guided_steps, format_macs(cost.total),
                format_macs(sum(cost.transformer)), format_macs(sum(cost.decoder)),
                format_macs(cost.total_without_attention),
                f"{format_macs(cost.saved)} ({cost.saved / (cost.total + cost.saved):.0%})" if cost.saved else "-",
            ]
            for cost in costs
        ],
    )  # fmt: skip
    if None in strategies:
        cost = costs[strategies.index(None)]
        print(f"Of {cost.num_inference_steps} steps the policy takes {format_macs(sum(cost.policy))}.")
    print(
        "Multiply-accumulates. `without attention` leaves out the two products inside attention, as the papers do; "
        "`saved` is against\nrunning the unconditional pass at every step."
    )


def print_measured(pipe: Any, strategies: Sequence[Any], guidance_scale: float) -> None:
    """Where images differ: of some, made one at a time, and counted meanwhile."""
    from ..cost import measured_costs
    from ..metrics.conditions import balanced_labels

    labels = balanced_labels(MEASURED_IMAGES, pipe.transformer.config.num_classes).tolist()
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for strategy in strategies:
        costs = measured_costs(pipe, labels, strategy, guidance_scale)
        totals, steps = [sum(cost) for cost in costs], (strategy or pipe.policy.config).num_inference_steps
        without = sum(cost.weights for cost in costs) / len(costs)
        rows.append([
            steps, format_macs(sum(totals) / len(totals)), format_macs(min(totals)), format_macs(max(totals)), format_macs(without),
        ])  # fmt: skip
    print_table(["steps", "per image", "least", "most", "without attention"], rows)
    print(
        f"Multiply-accumulates, measured on {MEASURED_IMAGES} images of noise 0 to {MEASURED_IMAGES - 1}: here they follow how "
        "many tokens\neach image reveals at a step. `without attention` leaves out the two products inside attention."
    )


def print_paper() -> None:
    from ..cost.paper import paper_rows

    print_table(
        ["model", "table", "pixels", "parameters", "printed", "steps", "guided", "paper's way", "printed", "in full", "saved"],
        [
            [
                row.model, row.table or "-", row.pixels, f"{row.parameters / 1e6:.1f} M",
                f"{row.printed_parameters} M" if row.printed_parameters else "-",
                row.cost.num_inference_steps, row.cost.num_guided_steps,
                f"{row.cost.total_without_attention / 1e12:.3f}",
                "-" if row.printed_cost is None else f"{row.printed_cost} {'=' if row.agrees else 'differs'}",
                f"{row.cost.total / 1e12:.3f}", f"{row.cost.saved / 1e12:.3f}" if row.cost.saved else "-",
            ]
            for row in paper_rows()
        ],
    )  # fmt: skip
    print(
        "10^12 multiply-accumulates per image with the decoder. The paper's way leaves out the two products inside "
        "attention;\n`saved` is what unconditional passes would cost at the steps that are not guided."
    )


def register(commands) -> None:
    command = commands.add_parser("cost", help="what an image costs", description=run.__doc__)
    command.add_argument("pipeline", nargs="?", help="folder or Hub id")
    command.add_argument(
        "--num-inference-steps", type=positive, nargs="+", action="extend", default=[], metavar="T",
        help="default: all stored strategies'",
    )  # fmt: skip
    command.add_argument(
        "--strategy", nargs="+", action="extend", default=[], metavar="FILE",
        help="strategy files (YAML or JSON) instead of stored ones",
    )  # fmt: skip
    command.add_argument("--guidance-scale", type=float, help="as in generate; 0: no unconditional passes")
    command.add_argument("--paper", action="store_true", help="the cost columns of the AutoNAT paper's Tables 3, 4, 5")
    command.set_defaults(run=run)
