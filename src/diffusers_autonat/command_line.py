"""What every command line has: options that refuse nonsense, and errors of the user in one line."""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm


TRACEBACK = "DIFFUSERS_AUTONAT_TRACEBACK"  # set to anything, an error shows where it was raised

_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EFBIG: "raise the limit on the size of files and run the same command again",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "name one that you may use, or change its permissions",
    errno.EPERM: "name one that you may use, or change its permissions",
    errno.ENOENT: "name one that exists",
    errno.ENOTDIR: "name a folder",
}


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that shows one line for a wrong option, not the list of all."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Type of an option: a whole number from `low` to `high`."""
    lawful = f"of at least {low}" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        digits = re.fullmatch(r"[+-]?[0-9]{1,30}", text)
        if not digits or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(f"{text[:40]} is not a whole number {lawful}")
        return int(text)

    return parse


positive = whole(1)


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """Type of an option: a finite number from `low` to `high`."""
    limits = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
    lawful = "a finite number" + (" of " if limits else "") + " and ".join(limits)

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"{text[:40]} is not {lawful}")
        return value

    return parse


def error_text(error: BaseException) -> str | None:
    """What to tell a user of an error that is theirs or the machine's, with a remedy; None of a fault of ours.

    It is one line but for a `ValueError` that has more, such as a list of what is wrong.
    """
    text = " ".join(str(error).split())
    out_of_memory = isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory", text, re.I)
    if isinstance(error, MemoryError) or out_of_memory:
        return f"not enough memory: take a smaller model or batch ({text[:200] or 'MemoryError'})"
    if isinstance(error, ValueError):
        return str(error)
    # safetensors has an error of its own, which names the system's only in its text.
    foreign = type(error).__name__ == "SafetensorError"
    if not isinstance(error, OSError) and not foreign:
        return None
    number = getattr(error, "errno", None) or int((re.findall(r"os error (\d+)", text) or [0])[-1])
    remedy = _REMEDIES.get(number)
    text = re.sub(r"^\[Errno -?\d+\] ", "", text)
    if foreign and not remedy:
        remedy = "a file of weights is damaged; fetch or make it again"
    return f"{text.rstrip('.')}: {remedy}" if remedy else text


@contextmanager
def one_line_errors(program: str | None = None) -> Iterator[None]:
    """End the process with status 2 and one line where the block raises an error that is not a fault of this package."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        text = error_text(error)
        if text is None or TRACEBACK in os.environ:
            raise
        # By tqdm: not behind a progress bar, on the same line.
        line = " ".join(text.split())
        tqdm.write(f"{program or os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)
        sys.exit(2)
