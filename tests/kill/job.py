"""What a kind of job tells the killer about itself. One file in `jobs/` for each kind, with a list `JOBS`."""

from __future__ import annotations

import os
import runpy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any


ROOT = Path(__file__).parents[2]


class Job(ABC):
    """
    A job that is killed and started again until it has finished, and must end as if nothing had happened.

    `run` is called in a forked process, for the first start and for every later one alike: a job that needs another
    command to go on (`--resume`) has to find out by itself.

    Attributes:
        name: As it is printed, `<kind>/<variant>`.
        processes: How many run it together; each calls `run`, with RANK, WORLD_SIZE and so on as `torchrun` sets them.
        seconds: After which a start that was not killed counts as hung.
        unwatched: In the output, what matters too little to kill the job at its writes; it dies there at random moments.
    """

    name: str
    processes: int = 1
    seconds: float = 300.0
    unwatched: tuple[str, ...] = ()

    def prepare(self, folder: Path) -> None:
        """Make the inputs in `folder`, once for all runs."""

    @abstractmethod
    def run(self, folder: Path, output: Path) -> None:
        """Do the job: from the inputs in `folder` to `output`, which may hold what a killed start has left."""

    @abstractmethod
    def result(self, output: Path) -> dict[str, Any]:
        """What has to be equal, by name, after any number of kills; everything that can be compared with `==`."""

    def damage(self, output: Path, random: Random) -> str | None:
        """
        Do to the files what a power cut could have done beside the kill, where the job promises to bear it.

        Returns:
            What was done, or None where there was nothing to damage.
        """
        return None


def forked(call: Callable[[], None]) -> None:
    """Do it in a fork, silently: the process that forks for every start has to stay without threads."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            call()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def run_script(path: Path, *args: Any) -> None:
    """A script as its command line runs it, in this process."""
    sys.argv = [str(path), *map(str, args)]
    runpy.run_path(str(path), run_name="__main__")


def files(folder: Path, of: Callable[[Path], bool] = lambda path: True) -> dict[str, bytes]:
    """The bytes of all files below a folder, by their names in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and of(path))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
