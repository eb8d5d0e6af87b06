#!/usr/bin/env python
"""
Draw the pictures of docs/ again: `make pictures`. What draws them is the code of the pages, so pages and pictures agree; but for that
of samplers, which is of search/results as the tables are.
"""

import re
import shutil
import statistics
import subprocess
from pathlib import Path

from tables import DISTANCE, load, of_samplers

from diffusers_autonat.plots import plot_bars


DOCS = Path(__file__).parent


def code(page: str, language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE))


def draw_samplers(steps: str) -> None:
    """What searches reach with how many images: the mean of their seeds, and its error by what these differ."""
    bars, errors = {}, {}
    for sampler, rows in of_samplers(steps):
        values = [row["found_values"][DISTANCE] for row in rows]
        label = f"{sampler}, {statistics.mean(row['images'] for row in rows) / 1000:.0f} K images"
        bars[label], errors[label] = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    if not bars:  # not run to the end yet
        return
    bars = dict(sorted(bars.items(), key=lambda bar: bar[1]))
    title = f"autonat-fashion-mnist, T = {steps}, three searches each"
    plot_bars(
        bars,
        DOCS / "images" / f"samplers-T{steps}.png",
        f"{DISTANCE}, confirmed",
        load("floor")["values"][DISTANCE],
        title,
        errors,
    )


def main():
    for steps in ("4", "8"):
        draw_samplers(steps)
    sources = [code("plots.md", "bash")]
    subprocess.run(["bash", "-eux", "-c", sources[0]], cwd=DOCS.parent, check=True)
    for page in ("schedules.md", "orders.md"):
        sources.append(code(page, "python"))
        exec(compile(sources[-1], page, "exec"), {})
    for name in set(re.findall(r"outputs/([\w-]+\.png)", "".join(sources))):
        picture = DOCS / "images" / name
        if picture.exists():  # the app's test draws others, and a benchmark one
            shutil.copy(DOCS.parent / "outputs" / name, picture)
            print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
