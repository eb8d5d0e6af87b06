#!/usr/bin/env python
"""Write the tables of docs/ again that are made from search/results: `make tables`.

A page holds each between `<!-- table NAME -->` and `<!-- end of table -->`; NAME is one of `TABLES` below. What has not been run is
left out.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from diffusers_autonat import TrainingStrategy
from diffusers_autonat.cards import table
from diffusers_autonat.search.training import describe


DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "search" / "results"
SEEDS = 3  # searches of each kind
ORDERS = 6
ENOUGH = 0.9  # of the passes that are granted: what a search found that ended with fewer says nothing of as many
MODELS = {"autonat": "U-ViT", "enat": "ENAT"}
SYMBOLS = {
    "mask_ratios": "r",
    "sampling_temperatures": "tau1",
    "remasking_temperatures": "tau2",
    "guidance_scales": "s",
}
DISTANCE, RECOGNISED, SECOND = "frechet_distance", "class_consistency", "second_frechet_distance"


def load(name: str) -> dict | None:
    """A study's results; None if it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def rows_below(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; `head` has its columns, separated by ` | `."""
    return table(head.split(" | "), rows) + "\n"


def with_error(values: dict, name: str = DISTANCE) -> str:
    return f"{values[name]:.3f} +- {values[f'{name}_error']:.3f}"


def percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def millions(macs: float) -> str:
    return f"{macs / 1e6:,.0f} M"


def mean(rows: list[dict], value: str = DISTANCE, of: str = "found") -> float:
    return statistics.mean(row[f"{of}_values"][value] for row in rows)


def each(rows: list[dict], value: str = DISTANCE, of: str = "found") -> str:
    """The values of all seeds, and their mean."""
    if not all(f"{of}_values" in row for row in rows):
        return "-"
    values = ", ".join(f"{row[f'{of}_values'][value]:.3f}" for row in rows)
    return f"{values}: **{mean(rows, value, of):.3f}**"


def closed(value: float, baseline: float, floor: float) -> str:
    """Share of the gap between a tuned heuristic and the floor."""
    return percent((baseline - value) / (baseline - floor), 0)


def searched() -> Iterator[tuple[str, int, dict, list[dict]]]:
    """Model, T, the tuned heuristic and what three searches found, where both have been run."""
    for model, name in MODELS.items():
        for steps in (4, 8, 16):
            baseline, found = (load(f"{study}-{model}-fashion-mnist-T{steps}") for study in ("baseline", "found"))
            if baseline and found and len(found["rows"]) == SEEDS:
                yield name, steps, baseline, found["rows"]


def found() -> str:
    head = (
        "model | T | tuned heuristic | distance | recognised | multiply-accumulates | found, of three seeds: mean | recognised | "
        "multiply-accumulates | gap to the floor closed"
    )
    rows = []
    for model, steps, baseline, searches in searched():
        tuned = baseline["confirmed"][0]["values"]
        rows.append([
            model, str(steps), baseline["tuned"], with_error(tuned), percent(tuned[RECOGNISED]), millions(baseline["macs"]),
            each(searches), percent(mean(searches, RECOGNISED)),
            millions(statistics.mean(row["found_macs"] for row in searches)),
            closed(mean(searches), tuned[DISTANCE], baseline["floor"]),
        ])  # fmt: skip
    return rows_below(head, rows)


def second() -> str:
    """The same by the classifier that no search saw."""
    floor, rows = load("second-floor"), []
    for model, steps, baseline, searches in searched():
        tuned = baseline["confirmed"][0]["values"]
        share = "-" if floor is None else closed(mean(searches, SECOND), tuned[SECOND], floor["values"][DISTANCE])
        rows.append([model, str(steps), with_error(tuned, SECOND), each(searches, SECOND), share])
    return rows_below("model | T | tuned heuristic | found, of three seeds: mean | gap to the floor closed", rows)


def of_samplers(steps: str) -> Iterator[tuple[str, list[dict]]]:
    """Searches of a sampler with so many images; what has not been run to the end yet is left out."""
    for study in ("samplers", "samplers-thrice", "samplers-tenfold"):
        result = load(f"{study}-autonat-fashion-mnist-T{steps}")
        for sampler in dict.fromkeys(row["sampler"] for row in result["rows"]) if result else ():
            of_it = [row for row in result["rows"] if row["sampler"] == sampler]
            if len(of_it) == SEEDS:
                yield sampler, of_it


def samplers(steps: str) -> str:
    rows = []
    for sampler, of_it in of_samplers(steps):
        images, passes = (f"{statistics.mean(row[spent] for row in of_it):,.0f}" for spent in ("images", "passes"))
        found = each(of_it), f"{mean(of_it, SECOND):.3f}"
        within = (
            f"{mean(of_it, of=of):.3f}" if all(row[spent] >= ENOUGH * row["within_passes"] for row in of_it) else "-"
            for of, spent in (("within", "passes"), ("within_unshared", "passes_unshared"))
        )
        rows.append([f"`{sampler}`", images, passes, *found, *within])
        if all("end_values" in row for row in of_it):
            end = each(of_it, of="end"), f"{mean(of_it, SECOND, 'end'):.3f}"
            rows.append([f"`{sampler}`, its end", images, passes, *end, "", ""])
    head = (
        "`--sampler` | images | passes | confirmed, of three seeds: mean | by the second classifier | "
        "in as many passes as `population` | if nothing were shared"
    )
    return rows_below(head, rows)


def free() -> str:
    result = load("free-autonat-fashion-mnist-T4")
    by_label = {row["label"]: row for row in result["rows"]} if result else {}
    if len(by_label) < 1 + 2 * len(SYMBOLS):  # not run to the end yet
        return ""
    start = with_error(result["rows"][0]["start_values"])
    rows = [["all four", start, with_error(by_label["all"]["found_values"])]]
    for name, symbol in SYMBOLS.items():
        pair = by_label[f"all but {name}"], by_label[name]
        rows.append([symbol, *(with_error(row["found_values"]) for row in pair)])
    return rows_below("schedule | all but it searched | it alone searched", rows)


def orders(model: str) -> str:
    rows = []
    for steps in (4, 8, 16):
        result = load(f"orders-{model}-fashion-mnist-T{steps}")
        if result is None or len(result["rows"]) < ORDERS:  # not run to the end yet
            continue
        for row in result["rows"]:
            values = row["found_values"]
            rows.append([
                str(steps), row["order"], with_error(row["start_values"]), with_error(values), with_error(values, SECOND),
                percent(values[RECOGNISED]), millions(row["found_macs"]),
            ])  # fmt: skip
    head = "T | order | where it began | found | by the second classifier | recognised | multiply-accumulates"
    return rows_below(head, rows)


def again(steps: str) -> str:
    """Two searches of one kind, side by side."""
    rows = []
    for model, name in MODELS.items():
        once, twice = (load(f"{study}-{model}-fashion-mnist-T{steps}") for study in ("orders", "orders-again"))
        for row in twice["rows"] if once and twice else ():
            pair = [next(one for one in once["rows"] if one["order"] == row["order"]), row]
            rows.append([name, row["order"], each(pair), each(pair, SECOND)])
    return rows_below("model | order | found, of two seeds: mean | by the second classifier", rows)


def policies() -> str:
    rows = []
    for steps in (4, 8):
        for name, label in (
            ("strategy", "stored strategy"),
            ("policy-seed0", "policy, seed 0"),
            ("policy-seed1", "seed 1"),
        ):
            if report := load(f"policy-fashion-mnist-T{steps}/{name}"):
                values = report["values"]
                rows.append([
                    str(steps), label, with_error(values), with_error(values, SECOND), percent(values[RECOGNISED]),
                    f"{report['run']['passes_per_image']:.2f}",
                ])  # fmt: skip
    return rows_below("T | | distance | by the second classifier | recognised | passes an image", rows)


def parts(steps: str) -> str:
    result = load(f"policy-fashion-mnist-T{steps}/parts")
    values = result["values"] if result else {}
    rows = ([name, with_error(of), with_error(of, SECOND), percent(of[RECOGNISED])] for name, of in values.items())
    return rows_below(f"T = {steps}, set by | distance | by the second classifier | recognised", rows)


def training() -> str:
    result = load("training-strategies-T4")
    if result is None:
        return ""
    rows = []
    for row in result["rows"]:
        values = row["values"]
        rows.append([row["label"], with_error(values), with_error(values, SECOND), percent(values[RECOGNISED])])
    return rows_below("p(r) | distance | by the second classifier | recognised", rows)


def turns() -> str:
    """p(r) and the generation strategy in one search, and in turn: where they end, on noise by which nothing was chosen."""
    rows = []
    if (result := load("concurrent-T4")) and "fresh_values" in result:
        rows.append(["one search, `tpe`", result["images"], result["rows"][0]["training"], result["fresh_values"]])
    for sampler in ("tpe", "population"):
        result = load(f"alternating-{sampler}/alternating")
        for number, row in enumerate(result["rounds"] if result else (), 1):
            rows.append([f"in turn, `{sampler}`, round {number}", row["images"], row["training"], row["fresh_values"]])
    return rows_below(
        "p(r) and the strategy | images by which was chosen | p(r) | distance | by the second classifier | recognised",
        (
            [name, f"{images:,}", describe(TrainingStrategy(**training)), with_error(of), with_error(of, SECOND),
             percent(of[RECOGNISED])]
            for name, images, training, of in rows
        ),
    )  # fmt: skip


def noise() -> str:
    result = load("noise-autonat-fashion-mnist-T4")
    if result is None:
        return ""
    kinds = ("stored", "stored, other noise", "quarter", "quarter, population")
    rows = (
        [f"{row['N']:,}", *(f"{row[kind]:.3f} +- {row[f'{kind}, deviation']:.3f}" for kind in kinds)]
        for row in result["rows"]
    )
    return rows_below(
        "N | stored over heuristic, same noise | other noise | a quarter of the way, same noise | by a population of 2 N",
        rows,
    )


TABLES: dict[str, Callable[..., str]] = {
    "found": found, "second": second, "samplers": samplers, "free": free, "orders": orders, "again": again, "policies": policies,
    "parts": parts, "training": training, "turns": turns, "noise": noise,
}  # fmt: skip


def written(page: str) -> str:
    """A page with its tables as they are now."""
    return re.sub(
        r"(?s)(<!-- table (\w+) ?(\w*) -->\n).*?(<!-- end of table -->)",
        lambda place: f"{place[1]}\n{TABLES[place[2]](*filter(None, [place[3]]))}\n{place[4]}",
        page,
    )


def main():
    for path in DOCS.glob("*.md"):
        before = path.read_text()
        if (after := written(before)) != before:
            path.write_text(after)
            print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
