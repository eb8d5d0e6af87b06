#!/usr/bin/env python
"""Write the tables of docs/ again that are made from search/results: `make tables`.

A page holds each between `<!-- table NAME -->` and `<!-- end of table -->`; NAME is one of `TABLES` below. Rows whose study has
not been run are left out.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "search" / "results"
MODELS = {"autonat": "U-ViT", "enat": "ENAT"}
DISTANCE, RECOGNISED = "frechet_distance", "class_consistency"


def load(name: str) -> dict | None:
    """A study's results; None if it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def both(*names: str) -> tuple[dict, ...] | None:
    """Several, if all are there."""
    found = [load(name) for name in names]
    return None if None in found else tuple(found)


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.strip() for cell in line)} |\n" for line in lines)


def with_error(values: dict, prefix: str = "") -> str:
    return f"{values[prefix + DISTANCE]:.3f} +- {values[prefix + DISTANCE + '_error']:.3f}"


def percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def mean(rows: list[dict], key: str) -> float:
    return statistics.mean(row["found_values"][key] for row in rows)


def each(rows: list[dict], key: str = DISTANCE) -> str:
    """The values of all seeds, and their mean."""
    values = ", ".join(f"{row['found_values'][key]:.3f}" for row in rows)
    return f"{values}: **{mean(rows, key):.3f}**"


def closed(value: float, baseline: float, floor: float) -> str:
    """Share of the gap between a tuned heuristic and the floor."""
    return percent((baseline - value) / (baseline - floor), 0)


def searched() -> Iterator[tuple[str, int, dict, list[dict]]]:
    """Model, T, the tuned heuristic and what three searches found, where both have been run."""
    for model in MODELS:
        for steps in (4, 8, 16):
            if studies := both(f"baseline-{model}-fashion-mnist-T{steps}", f"found-{model}-fashion-mnist-T{steps}"):
                baseline, found = studies
                yield MODELS[model], steps, baseline, found["rows"]


def found() -> str:
    head = "model | T | tuned heuristic | distance | recognised | found by three seeds: mean | recognised | gap to the floor closed | multiply-accumulates"
    return table(head, (
        [model, str(steps), baseline["tuned"], with_error(baseline["confirmed"][0]["values"]),
         percent(baseline["confirmed"][0]["values"][RECOGNISED]), each(rows), percent(mean(rows, RECOGNISED)),
         closed(mean(rows, DISTANCE), baseline["value"], baseline["floor"]), f"{statistics.mean(row['macs'] for row in rows) / 1e6:,.0f} M"]
        for model, steps, baseline, rows in searched()
    ))  # fmt: skip


def second() -> str:
    """The same by the classifier that no search saw."""
    [floor] = both("second-floor") or [None]
    if floor is None:
        return ""
    second, lowest = f"second_{DISTANCE}", floor["values"][DISTANCE]
    head = "model | T | tuned heuristic | found by three seeds: mean | gap to the floor closed"
    return table(head, (
        [model, str(steps), with_error(baseline["confirmed"][0]["values"], "second_"), each(rows, second),
         closed(mean(rows, second), baseline["confirmed"][0]["values"][second], lowest)]
        for model, steps, baseline, rows in searched()
    ))  # fmt: skip


TABLES: dict[str, Callable[[], str]] = {"found": found, "second": second}


def written(page: str) -> str:
    """A page with its tables as they are now."""
    return re.sub(
        r"(?s)(<!-- table (\w+) -->\n).*?(<!-- end of table -->)",
        lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}",
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
