#!/usr/bin/env python
"""What a search costs beside its images, as its journal grows: seconds per trial at 100, 1,000 and 10,000 trials.

    python benchmarks/search_journal.py --output benchmarks/results/search_journal.json

The loop is that of the scripts, at T = 4 with 14 parameters; the objective is a sum of squares. `random` and
`finite-difference` make all their trials themselves; `tpe` and `cmaes` go on from those of `random`. Between the trials
that are timed the disk is not waited for, which changes nothing that is read later. Seconds of the clock are those of a
machine that does other things too; seconds of the processor are not.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

import optuna
from timing import made_with

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.files import write_json
from diffusers_autonat.search import (
    FixedStepsSpace,
    StrategyObjective,
    make_sampler,
    open_storage,
    open_study,
    run_study,
)


SPACE = FixedStepsSpace(GenerationStrategy.cosine(4))
FOLLOWING = ("tpe", "cmaes")  # on the trials of `random`


def score(strategy: GenerationStrategy, trial: optuna.Trial) -> float:
    return sum((value - 0.7) ** 2 for values in strategy.to_dict().values() for value in values)


def study_of(journal: Path, sampler: str) -> optuna.Study:
    return open_study(open_storage(journal), "search", {}, make_sampler(sampler, SPACE.parameters, 10**6))


def run(study: optuna.Study, num_trials: int) -> dict[str, float]:
    """Run a study until it has so many trials; finite differences are stopped there. Seconds of the last ones."""
    before = len(study.get_trials(deepcopy=False))

    def until(trial: optuna.Trial) -> float:
        value = StrategyObjective(SPACE, score)(trial)
        if trial.number + 1 >= num_trials:
            study.sampler.has_ended = lambda *args: True  # of this study only
        return value

    start, start_cpu = time.perf_counter(), time.process_time()
    run_study(study, until, num_trials, progress=False)
    del study.sampler.has_ended
    trials = num_trials - before
    return {"seconds_per_trial": (time.perf_counter() - start) / trials,
            "processor_seconds_per_trial": (time.process_time() - start_cpu) / trials}  # fmt: skip


def measure(folder: Path, sizes: list[int], timed: int) -> list[dict]:
    rows = []
    for sampler in ("random", "finite-difference"):
        journal = folder / sampler
        study = study_of(journal, sampler)
        for size in sizes:
            with mock.patch("os.fsync"):
                run(study, size)
            row = {"sampler": sampler, "trials": size, **run(study, size + timed)}
            start = time.process_time()
            study_of(journal, sampler)
            opened = {"processor_seconds_to_open": time.process_time() - start, "bytes": os.path.getsize(journal)}
            rows.append({**row, **opened})
            print(rows[-1], flush=True)
            for other in FOLLOWING if sampler == "random" else ():
                copy = shutil.copy(journal, folder / f"{other}-{size}")
                rows.append({"sampler": other, "trials": size, **run(study_of(copy, other), size + 2 * timed)})
                print(rows[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--timed", type=int, default=20, help="trials that are timed at each size")
    parser.add_argument("--output", default="search_journal.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.sizes, args.timed)
    write_json(args.output, {"rows": rows, "timed": args.timed, "num_parameters": len(SPACE.parameters),
                             **made_with("diffusers-autonat", "optuna")})  # fmt: skip


if __name__ == "__main__":
    main()
