"""Times that can be compared on a busy machine: candidates take turns, the device is waited for, and the median counts."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from diffusers_autonat.cards import shell_command
from diffusers_autonat.provenance import hardware, versions


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """What one call of `run` takes, with all that it has left to the device."""
    _wait_for_device()
    start = clock()
    run()
    _wait_for_device()
    return clock() - start


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(
    measures: Mapping[str, Callable[[], float]], rounds: int, first: int = 0, description: str = ""
) -> Iterator[dict[str, float]]:
    """
    Rounds `first` to `rounds` - 1, in each of which every candidate is measured once.

    Every other round goes backwards, so that a load that comes and goes favours nobody.
    """
    with tqdm(total=rounds * len(measures), initial=first * len(measures), desc=description) as progress:
        for number in range(first, rounds):
            values = {}
            for name in list(measures)[:: 1 if number % 2 == 0 else -1]:
                values[name] = measures[name]()
                progress.update()
            yield {name: values[name] for name in measures}


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    description: str = "",
) -> dict[str, list[float]]:
    """
    Seconds of every candidate, one number for each round.

    Args:
        candidates: What is timed, by name. warm_up: Rounds before the first that counts.
        clock: Seconds; `time.process_time` does not see other processes on the machine, nor what a GPU does.
        description: Of the progress bar.
    """
    measures = {name: lambda run=run: seconds(run, clock) for name, run in candidates.items()}
    taken = list(in_turn(measures, warm_up + rounds, description=description))[warm_up:]
    return {name: [values[name] for values in taken] for name in candidates}


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The median, and how far the largest is above the smallest as a share of it."""
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def differences(
    earlier: Mapping[str, object], wanted: Mapping[str, object], results: tuple[str, ...] = ()
) -> list[str]:
    """In what the record of an earlier run, which another command may extend, was made otherwise than is wanted now.

    Args:
        results: Keys of `wanted` that are measured.
    """
    wanted = json.loads(json.dumps(wanted))  # as it is read again
    return [key for key in wanted if key not in ("command", *results) and earlier.get(key) != wanted[key]]


def resumed(
    parser: argparse.ArgumentParser, output: Path, wanted: dict[str, Any], results: tuple[str, ...]
) -> dict[str, Any]:
    """What an earlier run has left in `output`, by this run's command, or `wanted` where there is none; of another kind it is an error
    of `parser`. Arguments as of `differences`."""
    if not output.exists():
        return wanted
    earlier = json.loads(output.read_text())
    if different := differences(earlier, wanted, results):
        parser.error(f"{output} was made with other {', '.join(different)}: name another --output or delete it.")
    return {**earlier, "command": wanted["command"]}


def made_with(*others: str) -> dict[str, object]:
    """What a file of results says of how it was made: command, machine, and versions, those of `others` where installed."""
    installed = {distribution.name for distribution in distributions()}
    command = shell_command(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    packages = ["torch", "diffusers", *(name for name in others if name in installed)]
    return {"command": command, "hardware": hardware(), "versions": versions(*packages)}
