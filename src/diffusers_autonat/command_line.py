"""What every command line has: options that refuse nonsense, help that says the defaults, and errors in one line.

Exit statuses, the same for commands and scripts: 0 done; 2 something the user or the machine has to mend, said in one line;
130 stopped; 1 a fault of this package, with its traceback (and `compare`, where the answer is no).
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NoReturn

from tqdm import tqdm

from .launcher import has_launcher


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


USER_ERROR = 2  # as argparse ends for a wrong option


_called_as: list[str] = []


@contextmanager
def called_as(name: str) -> Iterator[None]:
    """What runs meanwhile is called so in its help and its errors, whichever file it is in."""
    _called_as.append(name)
    try:
        yield
    finally:
        _called_as.pop()


def program_name() -> str:
    """What a user has called: a script by its file's name."""
    return _called_as[-1] if _called_as else os.path.basename(sys.argv[0])


def command_words() -> list[str]:
    """The words that have started this process; of a launcher its name alone, as it keeps its options to itself."""
    launcher = ["accelerate", "launch"] if has_launcher() else []
    if _called_as:
        program, *words = _called_as[-1].split()
        return [*(launcher + ["-m", "diffusers_autonat.cli"] if launcher else [program]), *words, *sys.argv[1:]]
    main = sys.modules["__main__"].__spec__  # None of a script that is called by its file
    called = ["-m", main.name] if main is not None and main.origin == sys.argv[0] else [sys.argv[0]]
    return [*(launcher or ["python"]), *called, *sys.argv[1:]]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and behind each option its default where its help does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        said = "default" in text or default is argparse.SUPPRESS
        if said or default is None or default is False or default in ("", [], ()):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})"


class _Verbose(argparse.Action):
    """`--verbose` is that environment variable, so that processes which are started know of it too."""

    def __call__(self, *_: Any) -> None:
        os.environ[TRACEBACK] = "1"


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"diffusers-autonat {version('diffusers-autonat')}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that shows one line for a wrong option, not the list of all; with `--verbose` and `--version`."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"formatter_class": HelpFormatter, "prog": program_name(), **options})
        self.add_argument(
            "--verbose", nargs=0, action=_Verbose, help="show where an error was raised", default=argparse.SUPPRESS
        )
        self.add_argument(
            "--version", nargs=0, action=_Version, help="show the version and exit", default=argparse.SUPPRESS
        )

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (--help lists the options)\n")


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


def _nobody_reads() -> bool:
    """Whether who read this process's output has ended, as `| head` does; what is left of it is dropped then."""
    if not hasattr(select, "poll"):  # Windows has another error for it
        return False
    output = select.poll()
    output.register(1, 0)
    if not any(events & select.POLLERR for _, events in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains as it ends
    return True


@contextmanager
def one_line_errors(program: str | None = None) -> Iterator[None]:
    """End the process with `USER_ERROR` and one line where the block raises an error that is not a fault of this package."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + 13)  # as a program ends that the signal SIGPIPE has stopped
        text = error_text(error)
        if text is None or TRACEBACK in os.environ:
            raise
        line = f"{program or program_name()}: {text}"
        # By tqdm: not behind a progress bar, on the same line.
        tqdm.write(line, file=sys.stderr)
        end = SystemExit(line)  # who calls it from Python reads the line
        end.code = USER_ERROR
        raise end from error


@contextmanager
def warning_lines(shown: bool = True) -> Iterator[list[str]]:
    """The texts of the warnings given meanwhile, each once; they appear as one line and at once, above progress bars."""
    messages: list[str] = []

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if issubclass(category, UserWarning) and str(message) not in messages:
            messages.append(str(message))
            if shown:
                tqdm.write(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield messages


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; the first flush left, the others right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip())
