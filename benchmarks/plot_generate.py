#!/usr/bin/env python
r"""Draws what generate.py has measured, as often as each way is faster than the published one.

    python benchmarks/plot_generate.py benchmarks/results/generate-L.json benchmarks/results/low-precision-L.json \
        --output docs/images/speed-L.png

A panel for each case; of a case that stands in several files, ways are put together.
"""

import argparse
import json

from diffusers_autonat.plots import plot_ratios


# What rows share that were measured in turn.
CASE = ("model", "pixels", "steps", "batch_size", "dtype")


def ratios_of(rows: list[dict]) -> dict[tuple, dict[str, list[float]]]:
    """Of every case and way, how many times faster than the published way it was in each round."""
    published = {tuple(row[key] for key in CASE): row["rounds"] for row in rows if row["way"] == "published"}
    found: dict[tuple, dict[str, list[float]]] = {case: {} for case in published}
    for row in rows:
        case = tuple(row[key] for key in CASE)
        found[case][row["way"]] = [theirs / own for theirs, own in zip(published[case], row["rounds"])]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="JSON files of generate.py")
    parser.add_argument("--ways", nargs="+", help="these alone, in this order")
    parser.add_argument("--title")
    parser.add_argument("--output", default="generate.png")
    args = parser.parse_args()
    cases: dict[tuple, dict[str, list[float]]] = {}
    for path in args.results:
        with open(path) as file:
            for case, ways in ratios_of(json.load(file)["rows"]).items():
                cases[case] = ways | cases.get(case, {})
    if args.ways:
        cases = {case: {way: ways[way] for way in args.ways if way in ways} for case, ways in cases.items()}
    panels = {
        f"{model}, {pixels} pixels, T = {steps}, batch {batch}, {dtype}": ways
        for (model, pixels, steps, batch, dtype), ways in cases.items()
    }
    plot_ratios(panels, args.output, "times as fast as the published way", title=args.title)


if __name__ == "__main__":
    main()
