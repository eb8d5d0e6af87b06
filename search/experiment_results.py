"""What an experiment writes, and reads of what was written before; `experiments.py` imports it as its neighbour."""

import json
from collections.abc import Collection
from pathlib import Path

from diffusers_autonat.cards import shown_path
from diffusers_autonat.files import write_json
from diffusers_autonat.metrics import Report
from diffusers_autonat.provenance import hardware, versions
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.report import writing
from diffusers_autonat.strategies import read_json


# Of results, else they state settings.
OUTCOMES = {"rows", "confirmed", "hardware", "versions", "tuned", "value", "strategy", "macs", "grid", "trials", "images",
            "models_trained", "fresh_values", "best_so_far"}  # fmt: skip
AS_NAMED = "start"  # on the command line; the settings have the strategy itself


def floor_of(args, judge: Judge) -> float | None:
    """Distance of the tokenizer's reconstructions, which perfect tokens would have."""
    if args.floor is None:
        return None
    values = Report.load(args.floor).values
    if judge.value_name not in values:
        raise ValueError(f"--floor {args.floor} has no {judge.value_name}, only {', '.join(values)}")
    return values[judge.value_name]


def made_on() -> dict:
    return {"hardware": hardware(), "versions": versions("torch", "diffusers", "optuna")}


def stated(args, judge: Judge, data: dict) -> dict:
    """What every result states, and of this one the data."""
    settings = {key: getattr(args, key) for key in ("num_inference_steps", "num_trials") if hasattr(args, key)}
    if hasattr(args, AS_NAMED):
        settings[AS_NAMED] = shown_path(args.start)
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
        write_json(Path(args.output, f"{name}.json"), {**stated(args, judge, data), **made_on()})


def results_of_before(args, judge: Judge, name: str, settings: dict, labels: Collection[str] = ()) -> dict:
    """
    Results that are there already: what was searched need not be searched again where its journal is gone.

    Args:
        settings: What the experiment depends on besides what every result states.
        labels: Of what is measured, where results hold nothing else.

    Raises:
        ValueError: they are of other settings, or of more than these labels, and would be lost.
    """
    file = Path(args.output, f"{name}.json")
    if not file.exists():
        return {}
    known, wanted = read_json(file), json.loads(json.dumps(stated(args, judge, settings)))  # as a file has them
    compared = wanted.keys() | (known.keys() - OUTCOMES)
    others = [f"another {key}" for key in sorted(compared - {AS_NAMED}) if known.get(key) != wanted.get(key)]
    measured = [row["label"] for row in known.get("grid", known.get("rows", []))] if labels else []
    others += [label for label in measured if label not in labels]
    if others:
        raise ValueError(f"{file} has results of {others[0]}: move it away, or name another --output or --study-name")
    return known
