"""What a search leaves behind: a scheduler config with provenance, a table of all trials, and plots."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import GenerationStrategy
from .objective import STRATEGY


PROVENANCE = "search.json"  # beside scheduler_config.json: where each stored strategy comes from

SCHEDULES = {
    "mask_ratios": "mask ratio r",
    "sampling_temperatures": r"sampling temperature $\tau_1$",
    "remasking_temperatures": r"re-masking temperature $\tau_2$",
    "guidance_scales": "guidance scale s",
}


def save_strategy(
    folder: str | Path, scheduler: NATScheduler, strategy: GenerationStrategy, provenance: Mapping[str, Any]
) -> None:
    """Write `scheduler_config.json`, which NATScheduler loads, and `search.json`, which says where it comes from.

    Args:
        folder: A scheduler folder, e.g. that of a pipeline. Provenance of other numbers of steps that it holds stays.
        scheduler: Its other strategies are kept; one of the same number of steps is replaced.
        strategy: What was found.
        provenance: Study, trial, metric, N, seed, versions and so on, as JSON data.
    """
    folder, steps = Path(folder), strategy.num_inference_steps
    kept = [one for number, one in scheduler.stored_strategies.items() if number != steps]
    strategies = sorted([*kept, strategy], key=lambda one: one.num_inference_steps)
    folder.mkdir(parents=True, exist_ok=True)
    # Written elsewhere and moved, so that a kill leaves the pipeline's scheduler whole.
    partial = folder / "partial"
    NATScheduler(scheduler.config.mask_token_id, [one.to_dict() for one in strategies]).save_pretrained(partial)
    os.replace(partial / NATScheduler.config_name, folder / NATScheduler.config_name)
    shutil.rmtree(partial)
    path = folder / PROVENANCE
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**known, str(steps): dict(provenance)})


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(partial, path)


def save_trials(study: Study, path: str | Path) -> None:
    """All trials as CSV: number, state, value(s), times, every parameter, and what the score recorded."""
    frame = study.trials_dataframe(
        ("number", "state", "value", "datetime_start", "duration", "params", "user_attrs"), multi_index=False
    )
    frame = frame.drop(columns=[f"user_attrs_{STRATEGY}"], errors="ignore")  # the parameters say the same
    values = frame.pop("user_attrs_values") if "user_attrs_values" in frame else []
    for index, recorded in enumerate(values):
        for name, value in recorded.items() if isinstance(recorded, dict) else ():
            frame.loc[index, name] = value
    frame.columns = [column.removeprefix("params_").removeprefix("user_attrs_") for column in frame.columns]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def plot_schedules(strategies: Mapping[str, GenerationStrategy], path: str | Path) -> None:
    """The four schedules of strategies over their steps, one panel each; the first strategy stands out."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    for (name, title), axis in zip(SCHEDULES.items(), axes):
        for number, (label, strategy) in enumerate(strategies.items()):
            values = getattr(strategy, name)
            # The last r is 0 for every strategy, and the last tau2 has no effect.
            shown = values[:-1] if name == "remasking_temperatures" else values
            style = {"color": f"C{number}", "linewidth": 2 if number == 0 else 1.3, "marker": "o", "markersize": 4}
            axis.plot(range(1, len(shown) + 1), shown, label=label, linestyle="-" if number == 0 else "--", **style)
        steps = max(strategy.num_inference_steps for strategy in strategies.values())
        axis.set(title=title, xlabel="step", xlim=(0.7, steps + 0.3), xticks=range(1, steps + 1))
        axis.set_ylim(bottom=0)
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    _save(figure, path)


def plot_search(study: Study, path: str | Path, value_name: str, levels: Mapping[str, float] | None = None) -> None:
    """The value of every trial and the best so far.

    Args:
        study: With one objective.
        path: Of the picture.
        value_name: Label of the axis.
        levels: Values to draw as horizontal lines, by label, e.g. the heuristic's.
    """
    plt = _pyplot()
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    numbers, values = [trial.number for trial in complete], [trial.values[0] for trial in complete]
    best = [min(values[: i + 1]) for i in range(len(values))]
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axis.plot(numbers, values, ".", color="0.6", markersize=4, label="trials")
    axis.step(numbers, best, where="post", color="C0", linewidth=2, label="best so far")
    for number, (label, level) in enumerate((levels or {}).items(), start=1):
        axis.axhline(level, color=f"C{number}", linestyle="--", linewidth=1.2, label=label)
    # A wild trial must not flatten the rest.
    ordered = sorted([*values, *(levels or {}).values()])
    low, high = ordered[0], max(values[0], ordered[int(0.95 * (len(ordered) - 1))])
    margin = 0.08 * (high - low or 1.0)
    axis.set(xlabel="trial", ylabel=value_name, ylim=(low - margin, high + margin))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    _save(figure, path)


def plot_front(
    points: Mapping[str, list[tuple[float, float]]], path: str | Path, value_name: str, cost_name: str
) -> None:
    """Quality against cost: groups of points `(value, cost)` by label; those no other point beats are joined."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for number, (label, group) in enumerate(points.items()):
        costs, values = [cost for _, cost in group], [value for value, _ in group]
        front = sorted(pareto_front(group), key=lambda point: point[1])
        axis.scatter(costs, values, s=14, color=f"C{number}", alpha=0.35, linewidths=0)
        axis.step([c for _, c in front], [v for v, _ in front], where="post", color=f"C{number}", label=label)
        axis.scatter([c for _, c in front], [v for v, _ in front], s=26, color=f"C{number}")
    axis.set(xlabel=cost_name, ylabel=value_name)
    axis.xaxis.set_major_formatter(plt.matplotlib.ticker.EngFormatter())
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    _save(figure, path)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both coordinates, the lower the better."""
    return [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]


def plot_curves(
    curves: Mapping[str, list[list[tuple[float, float]]]],
    path: str | Path,
    x_name: str,
    value_name: str,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Best-so-far curves: by label the runs of several seeds, each a list of (x, value); mean and range are drawn."""
    import numpy as np

    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, (label, runs) in enumerate(curves.items()):
        grid = np.unique(np.concatenate([[x for x, _ in run] for run in runs]))
        grid = grid[grid >= max(run[0][0] for run in runs)]
        # A best-so-far value holds until the next one.
        held = []
        for run in runs:
            xs, values = np.array(run).T
            held.append(values[np.searchsorted(xs, grid, side="right") - 1])
        stacked = np.array(held)
        axis.step(grid, stacked.mean(0), where="post", color=f"C{number}", linewidth=2, label=label)
        axis.fill_between(
            grid, stacked.min(0), stacked.max(0), step="post", color=f"C{number}", alpha=0.15, linewidth=0
        )
    for number, (label, level) in enumerate((levels or {}).items(), start=len(curves)):
        axis.axhline(level, color=f"C{number}", linestyle="--", linewidth=1.2, label=label)
    axis.set(xlabel=x_name, ylabel=value_name)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    _save(figure, path)


def plot_bars(values: Mapping[str, float], path: str | Path, value_name: str, floor: float | None = None) -> None:
    """One horizontal bar per label, with the number at its end; a line where the floor is."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.36 * len(values)), layout="constrained")
    colours = ["C0" if value == min(values.values()) else "0.7" for value in values.values()]
    bars = axis.barh(list(values), list(values.values()), color=colours)
    axis.bar_label(bars, fmt="%.3f", padding=3)
    if floor is not None:
        axis.axvline(floor, color="C3", linestyle="--", linewidth=1.2, label="tokenizer's reconstructions")
        figure.legend(frameon=False, loc="outside upper right")
    axis.set(xlabel=value_name, xlim=(0, 1.15 * max(values.values())))
    axis.invert_yaxis()
    axis.grid(alpha=0.3, axis="x")
    axis.set_axisbelow(True)
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: str | Path) -> None:
    import matplotlib.pyplot as plt

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
