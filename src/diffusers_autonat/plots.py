"""Every picture: schedules of strategies, what a policy does, the course of a search or a training, quality against cost,
comparisons, samples, the steps of an image. Data in, a file out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from PIL import Image, ImageDraw

from .strategies import WITHOUT_EFFECT_LAST, Strategy


# The schedules of a strategy as a reader knows them, with the paper's symbols.
SCHEDULE_LABELS = {
    "mask_ratios": "mask ratio $r$",
    "sampling_temperatures": r"sampling temperature $\tau_1$",
    "remasking_temperatures": r"re-masking temperature $\tau_2$",
    "guidance_scales": "guidance scale $s$",
    "remasking_rates": r"re-masking rate $\eta$",
    "entropy_bounds": r"entropy bound $\gamma$",
}

# The distances likewise; the first two are what only the standard network's may be called.
DISTANCE_LABELS = {
    "fid": "FID",
    "kid": "KID",
    "frechet_distance": "Fréchet distance",
    "kernel_distance": "kernel distance",
}
DISTANCE_LABELS |= {f"second_{name}": f"{label}, second extractor" for name, label in DISTANCE_LABELS.items()}

# Of Okabe and Ito, which colour-blind readers tell apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"]

DPI = 110

P = ParamSpec("P")

History = list[dict[str, float]]

# Runs of several seeds, each a list of (x, best value so far).
Runs = list[list[tuple[float, float]]]


def title_of(model: str, num_inference_steps: int | str, num_images: int | None = None) -> str:
    """What a picture shows: the model, a path or a name, T and N."""
    path = Path(model)  # a training calls what it has made "pipeline", in a folder of its own
    title = f"{path.parent.name if path.name == 'pipeline' else path.name}, T = {num_inference_steps}"
    return title if num_images is None else f"{title}, N = {num_images:,}"


def _in_our_colours(plot: Callable[P, None]) -> Callable[P, None]:
    """Draw with `COLOURS`, and leave the caller's settings of matplotlib as they are."""

    @wraps(plot)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
        from matplotlib import rc_context
        from matplotlib.rcsetup import cycler

        with rc_context({"axes.prop_cycle": cycler(color=COLOURS)}):
            plot(*args, **kwargs)

    return drawn


def readable(text: str) -> str:
    """A label with words and symbols in place of keys; `plot_*` do so with the names of values and of bars."""
    labels = SCHEDULE_LABELS | DISTANCE_LABELS
    return re.sub(rf"\b({'|'.join(labels)})\b", lambda found: labels[found[0]], text)


@_in_our_colours
def plot_schedules(strategies: Mapping[str, Strategy], path: str | Path, title: str | None = None) -> None:
    """The schedules of strategies of one kind over their steps, one panel each; the first strategy stands out.

    Args:
        strategies: By the label that a reader knows them by.
        path: Of the picture; its folder is made.
        title: Of the whole picture: model, T, N and so on.
    """
    names = list(next(iter(strategies.values())).to_dict())
    size = (3.25 * len(names), 3.5 if title else 3.2)
    figure, axes = _subplots(1, len(names), figsize=size, layout="constrained")
    for name, axis in zip(names, axes):
        for number, (strategy_label, strategy) in enumerate(strategies.items()):
            values = getattr(strategy, name)
            shown = values[:-1] if name in WITHOUT_EFFECT_LAST else values
            style = {"color": f"C{number}", "linewidth": 2 if number == 0 else 1.3, "marker": "o", "markersize": 4}
            line = "-" if number == 0 else "--"
            axis.plot(range(1, len(shown) + 1), shown, label=strategy_label, linestyle=line, **style)
        steps = max(strategy.num_inference_steps for strategy in strategies.values())
        _over_steps(axis, steps)
        axis.set_title(SCHEDULE_LABELS[name], fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    _save(figure, path)


@_in_our_colours
def plot_search(
    values: Mapping[int, float],
    path: str | Path,
    value_name: str,
    levels: Mapping[str, float] | None = None,
    title: str | None = None,
    populations: Collection[int] = (),
) -> None:
    """The value of every trial and the best so far, the lower the better.

    Args:
        values: Of a search with one objective, by number of the trial.
        path: Of the picture; its folder is made.
        value_name: Label of the axis.
        levels: Values to draw as horizontal lines, by label, e.g. the heuristic's.
        title: Of the picture: model, T, N and so on.
        populations: Trials of many strategies around one, whose value is that of none: the best is of the others.
    """
    numbers = sorted(values)
    ordered = [values[number] for number in numbers]
    single = [number for number in numbers if number not in populations]
    best = np.minimum.accumulate([values[number] for number in single])
    figure, axis = _subplots(figsize=(7, 3.8), layout="constrained")
    if populations:
        mixed = [number for number in numbers if number in populations]
        axis.plot(mixed, [values[number] for number in mixed], "x", color="0.6", markersize=4, label="populations")
    axis.plot(
        single,
        [values[number] for number in single],
        ".",
        color="0.4",
        markersize=5,
        label="single strategies" if populations else "trials",
    )
    axis.step(single, best, where="post", color="C0", linewidth=2, label="best so far")
    _draw_levels(axis, levels, first_color=1)
    # A wild trial must not flatten the rest.
    sizes = sorted([*ordered, *(levels or {}).values()])
    low, high = sizes[0], max(ordered[0], sizes[int(0.95 * (len(sizes) - 1))])
    margin = 0.08 * (high - low or 1.0)
    axis.set(xlabel="trial", ylabel=readable(value_name), title=title, ylim=(low - margin, high + margin))
    _finish(figure, axis, path)


@_in_our_colours
def plot_front(
    points: Mapping[str, list[tuple[float, float]]],
    path: str | Path,
    value_name: str,
    cost_name: str,
    title: str | None = None,
    errors: Mapping[str, Sequence[float | None]] | None = None,
) -> None:
    """Quality against cost: groups of points `(value, cost)` by label; those no other point beats are joined.

    Args:
        points: Groups by label. path: Of the picture; its folder is made.
        value_name, cost_name: Labels of the axes. title: Of the picture.
        errors: By the group's label, the standard errors of its values; None of what was measured without.
    """
    from matplotlib.ticker import EngFormatter

    figure, axis = _subplots(figsize=(6.4, 4.4), layout="constrained")
    for number, (label, group) in enumerate(points.items()):
        costs, values = [cost for _, cost in group], [value for value, _ in group]
        front = sorted(pareto_front(group), key=lambda point: point[1])
        axis.scatter(costs, values, s=14, color=f"C{number}", alpha=0.35, linewidths=0)
        axis.step([c for _, c in front], [v for v, _ in front], where="post", color=f"C{number}", label=label)
        axis.scatter([c for _, c in front], [v for v, _ in front], s=26, color=f"C{number}")
        for cost, value, error in zip(costs, values, (errors or {}).get(label, ())):
            if error is not None:
                axis.errorbar(cost, value, yerr=error, fmt="none", ecolor=f"C{number}", elinewidth=1, capsize=2)
    axis.set(xlabel=cost_name, ylabel=readable(value_name), title=title)
    axis.xaxis.set_major_formatter(EngFormatter())
    _finish(figure, axis, path)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both coordinates, the lower the better."""
    return [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]


@_in_our_colours
def plot_curves(
    curves: Mapping[str, Runs],
    path: str | Path,
    x_name: str,
    value_name: str,
    levels: Mapping[str, float] | None = None,
    title: str | None = None,
) -> None:
    """Best-so-far curves: by label the runs of several seeds, each a list of (x, value); mean and range are drawn."""
    figure, axis = _subplots(figsize=(7, 4.2), layout="constrained")
    for number, (label, runs) in enumerate(curves.items()):
        grid = np.unique(np.concatenate([[x for x, _ in run] for run in runs]))
        grid = grid[grid >= max(run[0][0] for run in runs)]
        # A best-so-far value holds until the next one.
        held = []
        for run in runs:
            xs, values = np.array(run).T
            held.append(values[np.searchsorted(xs, grid, side="right") - 1])
        stacked, color = np.array(held), f"C{number}"
        axis.step(grid, stacked.mean(0), where="post", color=color, linewidth=2, label=label)
        axis.fill_between(grid, stacked.min(0), stacked.max(0), step="post", color=color, alpha=0.15, linewidth=0)
    _draw_levels(axis, levels, first_color=len(curves))
    axis.set(xlabel=x_name, ylabel=readable(value_name), title=title)
    _finish(figure, axis, path)


@_in_our_colours
def plot_bars(
    values: Mapping[str, float],
    path: str | Path,
    value_name: str,
    floor: float | None = None,
    title: str | None = None,
    errors: Mapping[str, float | None] | None = None,
) -> None:
    """One horizontal bar per label, with the number at its end; a line where the floor is.

    Args:
        values: By label. path: Of the picture; its folder is made.
        value_name: What they are. floor: Of the tokenizer. title: Of the picture.
        errors: Standard errors by label, drawn as whiskers; None of what was measured without.
    """
    figure, axis = _subplots(figsize=(6.4, 1.1 + 0.36 * len(values)), layout="constrained")
    colours = ["C0" if value == min(values.values()) else "0.7" for value in values.values()]
    whiskers = [(errors or {}).get(label) or 0.0 for label in values]
    bars = axis.barh(
        [readable(label) for label in values], list(values.values()), color=colours,
        xerr=whiskers if any(whiskers) else None, error_kw={"ecolor": "0.35", "elinewidth": 1},
    )  # fmt: skip
    axis.bar_label(bars, fmt="%.3f", padding=3)
    if floor is not None:
        axis.axvline(floor, color="C3", linestyle="--", linewidth=1.2, label="tokenizer's reconstructions")
        figure.legend(frameon=False, loc="outside lower right")
    axis.set(xlabel=readable(value_name), xlim=(0, 1.15 * max(map(sum, zip(values.values(), whiskers)))), title=title)
    axis.set_ylim(len(values) - 0.4, -0.6)  # from above, with as much room at the ends however many there are
    axis.set_axisbelow(True)
    axis.grid(alpha=0.3, axis="x")
    _save(figure, path)


@_in_our_colours
def plot_history(
    history: History | Mapping[str, History], path: str | Path, columns: Mapping[str, str], title: str | None = None
) -> None:
    """A training's curves over steps, one panel for each of `columns` (key of a history row -> title).

    Args:
        history: Rows of a training, or of several by what they are called, drawn over each other.
        path: Of the picture; its folder is made. title: Of the whole picture.
    """
    from matplotlib.ticker import MaxNLocator

    histories = history if isinstance(history, Mapping) else {"": history}
    figure, axes = _subplots(1, len(columns), figsize=(4.5 * len(columns), 3), layout="constrained", squeeze=False)
    for axis, (key, label) in zip(axes[0], columns.items()):
        for name, all_rows in histories.items():
            rows = [row for row in all_rows if key in row]
            axis.plot([row["step"] for row in rows], [row[key] for row in rows], linewidth=1, label=name)
        axis.set_xlabel("step")
        axis.set_title(label, fontsize=10)  # beside the axis a long one would run out of the panel
        if all(float(row[key]).is_integer() for rows in histories.values() for row in rows if key in row):
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    if len(histories) > 1:
        axes[0, 0].legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


@_in_our_colours
def plot_policy(
    schedules: Mapping[str, np.ndarray],
    class_labels: Sequence[int],
    path: str | Path,
    class_names: Mapping[int, str] | None = None,
    strategy: Strategy | None = None,
    title: str | None = None,
) -> None:
    """What a policy sets over its steps: above, bands over all images; below, the mean of each class.

    Args:
        schedules: Of every image, `[n, T]`, by their names in a strategy.
        class_labels: Of the images.
        path: Of the picture; its folder is made.
        class_names: Of more than ten classes ten are drawn, evenly from little to much guidance.
        strategy: Drawn as a dashed line, e.g. where the policy started.
        title: Of the whole picture: model, T, N and so on.
    """
    labels, names = np.asarray(class_labels), list(schedules)
    classes = np.unique(labels).tolist()
    if len(classes) > 10:
        last = list(schedules.values())[-1].mean(axis=1)
        ranked = sorted(classes, key=lambda one: last[labels == one].mean())
        classes = [ranked[round(i * (len(ranked) - 1) / 9)] for i in range(10)]
    figure, axes = _subplots(2, len(names), figsize=(3.25 * len(names), 6.6), layout="constrained", sharex=True)
    for name, (bands, means) in zip(names, axes.T):
        values = np.asarray(schedules[name])
        if name == "mask_ratios" or name in WITHOUT_EFFECT_LAST:
            values = values[:, :-1]
        steps = range(1, values.shape[1] + 1)
        for low, high, alpha in ((5, 95, 0.18), (25, 75, 0.35)):
            edges = np.percentile(values, [low, high], axis=0)
            bands.fill_between(
                steps, *edges, color="C0", alpha=alpha, linewidth=0, label=f"{high - low} % of the images"
            )
        bands.plot(steps, np.median(values, axis=0), color="C0", linewidth=2, marker="o", markersize=4, label="median")
        if strategy is not None:
            static = getattr(strategy, name)[: values.shape[1]]
            bands.plot(steps, static, color="C1", linestyle="--", linewidth=1.5, label="static strategy")
        for number, one in enumerate(classes):
            label = (class_names or {}).get(int(one), f"class {one}").split(",")[0]
            style = "-" if number < len(COLOURS) else "--"  # there are more classes than colours
            of_class = values[labels == one].mean(axis=0)
            means.plot(steps, of_class, color=f"C{number}", linestyle=style, linewidth=1.3, label=label)
        bands.set_title(SCHEDULE_LABELS[name], fontsize=10)
        total = np.asarray(schedules[name]).shape[1]
        _over_steps(means, total)
        for axis in (bands, means):
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")  # r falls, so there is room
    axes[0, 0].set_ylabel("over images")
    axes[1, 0].set_ylabel("mean of a class")
    handles, drawn = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, drawn, loc="outside lower center", ncols=min(5, len(drawn)), frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    _save(figure, path)


@_in_our_colours
def plot_extremes(
    images: np.ndarray,
    values: Sequence[float],
    path: str | Path,
    value_name: str,
    labels: Sequence[str] | None = None,
    count: int = 8,
    title: str | None = None,
) -> None:
    """The images with the smallest values above, those with the largest below, each with its own.

    Args:
        images: `[n, H, W, C]` or `[n, H, W]`, uint8.
        values: One for each, e.g. mean guidance. value_name: What they are.
        path: Of the picture; its folder is made.
        labels: Of the images, e.g. class names. count: How many of either kind.
        title: Of the whole picture.
    """
    order = np.argsort(values, kind="stable")
    count = min(count, len(order) // 2)
    figure, axes = _subplots(2, count, figsize=(1.3 * count, 3.8), layout="constrained", squeeze=False)
    for row, chosen, kind in zip(axes, (order[:count], order[::-1][:count]), ("smallest", "largest")):
        for axis, index in zip(row, chosen):
            image = np.asarray(images[index])
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{labels[index] + chr(10) if labels else ''}{values[index]:.2f}", fontsize=8)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(kind)
    figure.suptitle(readable(f"{value_name}, {title}" if title else value_name), fontsize=11)
    _save(figure, path)


@_in_our_colours
def plot_samples(
    groups: Mapping[str, Sequence[Sequence[Image.Image]]],
    row_names: Sequence[str],
    path: str | Path,
    column_names: Sequence[str] = (),
    framed: Collection[tuple[int, int]] = (),
    title: str | None = None,
) -> None:
    """Images in rows, one for each class or thing, side by side for each way to make them, with names in the margins.

    Args:
        groups: By heading, such as "real" and "T = 8", rows of images, all of one size; a group has equal rows.
        row_names: On the left. path: Of the picture; its folder is made.
        column_names: Above each group's columns. framed: (row, column), of every group, that stand out.
        title: Of the whole picture.
    """
    image = next(iter(groups.values()))[0][0]
    side = math.ceil(84 / image.height) * image.height  # a whole factor, so that every pixel stays as it is
    widths = [len(rows[0]) for rows in groups.values()]
    margin = 0.9 + 0.07 * max(
        len(line) for name in row_names for line in name.split("\n")
    )  # inches, for letters of 9 points
    size = (sum(widths) * side / DPI + margin, len(row_names) * side / DPI + (0.9 if title else 0.6))
    figure, axes = _subplots(
        1, len(groups), figsize=size, layout="constrained", squeeze=False, gridspec_kw={"width_ratios": widths}
    )
    for axis, (heading, rows) in zip(axes[0], groups.items()):
        axis.imshow(_tiled(rows, side, framed), interpolation="nearest")
        axis.set_anchor("W")  # else names are measured where the picture stood before it was shrunk, and are cut
        axis.set_title(heading, fontsize=11)
        centres = [(number + 0.5) * side for number in range(max(len(rows), len(rows[0])))]
        axis.set_xticks(centres[: len(column_names)], column_names)
        names = row_names if axis is axes[0, 0] else ()
        axis.set_yticks(centres[: len(names)], names)
        axis.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
        axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=12)
    _save(figure, path)


@_in_our_colours
def plot_steps(
    images: Sequence[Image.Image], masks: Sequence[np.ndarray], path: str | Path, title: str | None = None
) -> None:
    """
    How an image is made: above, what each step guesses it to be; below, which tokens are masked again, in grey.

    Args:
        images: After each of the T steps.
        masks: `[h, w]` booleans for each, True where a token is masked.
        path: Of the picture; `.webp` is animated, one step after the other, any other is a strip.
        title: Of the strip.
    """
    if Path(path).suffix == ".webp":
        frames = [_frame(image, mask) for image, mask in zip(images, masks)]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        durations = [500] * (len(frames) - 1) + [2000]  # milliseconds; the finished image stays longer
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, lossless=True)
        return
    size = (1.3 * len(images) + 0.7, 3.5 if title else 3.1)
    figure, axes = _subplots(2, len(images), figsize=size, layout="constrained", squeeze=False)
    for step, (image, mask) in enumerate(zip(images, masks)):
        axes[0, step].imshow(
            image, cmap="gray" if image.mode == "L" else None, vmin=0, vmax=255, interpolation="nearest"
        )
        axes[1, step].imshow(mask_picture(mask), interpolation="nearest")
        axes[0, step].set_title(f"step {step + 1}", fontsize=9)
        axes[1, step].set_xlabel(f"{mask.sum()} of {mask.size}\nmasked", fontsize=8)
        for axis in axes[:, step]:
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("tokens")
    if title:
        figure.suptitle(title, fontsize=11)
    _save(figure, path)


def fit_power(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of the power `factor * size**exponent` that fits best, by least squares of logarithms."""
    exponent, logarithm = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(exponent), float(np.exp(logarithm))


@_in_our_colours
def plot_growth(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path,
    label: str = "seconds for an image",
    title: str | None = None,
    ranges: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """How a cost grows, one panel for each thing that grows, on logarithmic axes: what was measured, and the power of the size
    that fits it best.

    Args:
        curves: Sizes and costs, by what the sizes are of.
        path: Of the picture; its folder is made.
        label: What the costs are. title: Above all panels.
        ranges: The least and the largest cost of several rounds, for each size.
    """
    figure, axes = _subplots(
        1, len(curves), figsize=(3.1 * len(curves), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, (sizes, costs)) in zip(axes[0], curves.items()):
        exponent, factor = fit_power(sizes, costs)
        axis.loglog(
            sizes, factor * np.asarray(sizes, dtype=float) ** exponent, color="C1", label=f"exponent {exponent:.2f}"
        )
        axis.loglog(sizes, costs, "o", color="C0")
        for size, (least, largest) in zip(sizes, (ranges or {}).get(name, ())):
            axis.plot([size, size], [least, largest], color="C0", linewidth=1.2)
        axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axis.set_xlabel(name)
        axis.minorticks_off()
        axis.legend(frameon=False)
    axes[0, 0].set_ylabel(label)
    if title:
        figure.suptitle(title, fontsize=11)
    _save(figure, path)


@_in_our_colours
def plot_ratios(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: str | Path,
    label: str = "times as fast",
    title: str | None = None,
) -> None:
    """
    Ratios of speed as bars, one panel for each case: the median of the rounds, with a whisker from the least to the largest.
    A line stands at 1, as fast as what all are compared with.

    Args:
        panels: Of each case the ratios of each way, one for a round. path: Of the picture; its folder is made.
        label: What the ratios say. title: Above all panels.
    """
    heights = [0.5 + 0.32 * len(ways) for ways in panels.values()]
    figure, axes = _subplots(
        len(panels), 1, figsize=(6.8, 0.6 + sum(heights)), height_ratios=heights, squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    for axis, (case, ways) in zip(axes[:, 0], panels.items()):
        medians = [float(np.median(ratios)) for ratios in ways.values()]
        whiskers = [
            [m - min(r) for m, r in zip(medians, ways.values())],
            [max(r) - m for m, r in zip(medians, ways.values())],
        ]
        axis.barh(list(ways), medians, xerr=whiskers, color="C0", error_kw={"ecolor": "0.35", "elinewidth": 1})
        for row, (median, ratios) in enumerate(zip(medians, ways.values())):
            axis.annotate(
                f"{median:.2f}", (max(ratios), row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
            )
        axis.axvline(1, color="C3", linestyle="--", linewidth=1.2)
        axis.set_title(case, fontsize=10, loc="left")
        axis.invert_yaxis()
        axis.set_axisbelow(True)
        axis.grid(alpha=0.3, axis="x")
    axes[0, 0].set_xlim(0, 1.12 * max(max(ratios) for ways in panels.values() for ratios in ways.values()))
    axes[-1, 0].set_xlabel(label)
    if title:
        figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _tiled(rows: Sequence[Sequence[Image.Image]], side: int, framed: Collection[tuple[int, int]]) -> Image.Image:
    """Rows of images as one picture; those at the places `framed` have an orange frame."""
    picture = Image.new("RGB", (len(rows[0]) * side, len(rows) * side), "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            tile = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
            if (row, column) in framed:
                ImageDraw.Draw(tile).rectangle((0, 0, side - 1, side - 1), outline=COLOURS[1], width=5)
            picture.paste(tile, (column * side, row * side))
    return picture


def mask_picture(mask: np.ndarray) -> Image.Image:
    """Booleans `[h, w]` as a picture of w x h pixels: grey where a token is masked (True), blue where it is known."""
    known = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    return Image.fromarray(np.where(mask[..., None], np.uint8(200), known))


def _frame(image: Image.Image, mask: np.ndarray, side: int = 256) -> Image.Image:
    frame = Image.new("RGB", (2 * side + 8, side), "white")
    frame.paste(image.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (0, 0))
    frame.paste(mask_picture(mask).resize((side, side), Image.Resampling.NEAREST), (side + 8, 0))
    return frame


def _over_steps(axis: Any, steps: int) -> None:
    """From the first step to the last; of many, only some have a number, since these would run into each other."""
    from matplotlib.ticker import MaxNLocator

    axis.set(xlabel="step $t$", xlim=(0.7, steps + 0.3))
    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))


def _draw_levels(axis: Any, levels: Mapping[str, float] | None, first_color: int) -> None:
    for color, (label, level) in enumerate((levels or {}).items(), start=first_color):
        axis.axhline(level, color=f"C{color}", linestyle="--", linewidth=1.2, label=label)


def _finish(figure: Any, axis: Any, path: str | Path) -> None:
    axis.title.set_fontsize(11)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    _save(figure, path)


def _subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], layout: Any, **options: Any) -> Any:
    """As pyplot's, which keeps figures and the backend for the whole process; a notebook has its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def _save(figure: Any, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
