"""What an evaluation keeps on disk, so that a killed one continues and ends with the same number."""

from __future__ import annotations

import hashlib
import io
import re
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..files import whole_file
from .processes import process_rank, wait_for_all


NAME = re.compile(r"\d{4,9}-\d{5,9}\.pt")  # of a file: run and process
# At the end of a file: a mark, and the SHA-256 of all before it. torch notices a cut, but not every changed byte.
MARK, DIGEST = b"sha256", 32
SEAL = len(MARK) + DIGEST
KEPT = {"identity": dict, "taken_over": list, "calls": list, "elapsed": float, "metrics": dict}  # in a file


class EvaluationCheckpoint:
    """A folder with one file for each process: its statistics and which calls of the pipeline they hold.

    Every file adds its own share, so any number of processes can continue what any other number began. A run names
    its files anew and lists in each which older ones it has taken over; an older file counts until that list is
    written, and is deleted afterwards. So a kill at any moment neither loses nor doubles a share. A damaged file is
    named and passed over: its share is made again.

    Args:
        folder: where to; made on the first save.
        identity: what the number depends on, by name; another evaluation's state is refused.
        seconds: at least so long between two saves. What came after the last is made again.

    Attributes:
        earlier_seconds: after `load`, the time that earlier runs took for what they left.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], seconds: float = 60.0):
        self.folder, self.identity, self.seconds = Path(folder), identity, seconds
        self.earlier_seconds = 0.0

    def exists(self) -> bool:
        """Whether an evaluation has begun here and not ended."""
        return any(self.folder.glob("*.pt"))

    def load(self, collections: dict[Any, Any], device: torch.device | str = "cpu") -> set[int]:
        """Fill the metrics with this process's part of what was kept; return the calls done by all of them.

        To be called by all processes, once.

        Args:
            collections: the metrics.
            device: where they are kept.

        Raises:
            ValueError: the folder holds the state of another evaluation; says in what it differs.
        """
        rank, world = process_rank()
        names = [path.name for path in sorted(self.folder.glob("*.pt"))]
        files = {name: state for name in names if (state := self._read(name, rank == 0)) is not None}
        replaced = {str(name) for state in files.values() for name in state["taken_over"]}
        files = {name: state for name, state in files.items() if name not in replaced}
        for name, state in files.items():
            different = [key for key, value in self.identity.items() if state["identity"].get(key) != value]
            if different:
                raise ValueError(
                    f"{self.folder} holds an evaluation with other {', '.join(different)}: delete the folder to start "
                    "over, or repeat the command that began it."
                )
        run = 1 + max((int(name.split("-")[0]) for name in {*names, *replaced} if NAME.fullmatch(name)), default=0)
        self._path = self.folder / f"{run:04d}-{rank:05d}.pt"
        self._taken_over = list(files)[rank::world]
        own = [files[name] for name in self._taken_over]
        self._calls = self._earlier = [call for state in own for call in state["calls"]]
        if own:
            for n, collection in collections.items():
                collection.load_state_dict(_add(state["metrics"][n] for state in own))
                collection.to(device)  # torchmetrics leaves states where they were loaded to
        # Processes work side by side, so the longest of them is the time of all.
        self.earlier_seconds = max((state["elapsed"] for state in files.values()), default=0.0)
        self._start = time.monotonic()
        wait_for_all()
        # So that even a run killed at once has left its identity.
        self._write(collections)
        return {call for state in files.values() for call in state["calls"]}

    def _read(self, name: str, warned: bool) -> dict[str, Any] | None:
        """The state in a file; None of a damaged one, so that its calls are made again."""
        path = self.folder / name
        try:
            if not path.is_file() or not NAME.fullmatch(name):
                raise ValueError("no state of an evaluation")
            content = path.read_bytes()
            if content[-SEAL:-DIGEST] == MARK:  # files of the first release have none
                content, digest = content[:-SEAL], content[-DIGEST:]
                if hashlib.sha256(content).digest() != digest:
                    raise ValueError("it is not what was written")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if not (isinstance(state, dict) and {key: type(state.get(key)) for key in KEPT} == KEPT):
                raise ValueError("no state of an evaluation")
        except Exception as error:  # what a damaged file makes the reader raise is anything
            if warned:
                reason = " ".join(str(error).split())[:100] or type(error).__name__
                warnings.warn(
                    f"{path} is damaged ({reason}): the images that it counted are made again.", stacklevel=3
                )
            return None
        return state

    @property
    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._last_save >= self.seconds

    def save(self, collections: dict[Any, Any], calls: list[int]) -> None:
        """Write the state, whole or not at all.

        Args:
            collections: the metrics.
            calls: what this process has done since `load`.
        """
        self._calls = self._earlier + calls
        self._write(collections)

    def _write(self, collections: dict[Any, Any]) -> None:
        state = {
            "identity": self.identity,
            "taken_over": self._taken_over,
            "calls": self._calls,
            "elapsed": self.earlier_seconds + time.monotonic() - self._start,
            "metrics": {n: dict(collection.state_dict()) for n, collection in collections.items()},
        }
        # Not straight to the disk: where that is full, torch raises what does not say so.
        content = io.BytesIO()
        torch.save(state, content)
        with whole_file(self._path) as partial:
            partial.write_bytes(content.getvalue() + MARK + hashlib.sha256(content.getbuffer()).digest())
        for name in self._taken_over:
            (self.folder / name).unlink(missing_ok=True)
        self._last_save = time.monotonic()

    def delete(self) -> None:
        """Remove the state once the result is safe."""
        for path in [*self.folder.glob("*.pt"), *self.folder.glob("*.partial")]:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _add(states: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums are added, lists of kept features joined: `+` means the right thing for both."""
    total: dict[str, Any] = {}
    for state in states:
        total = {key: total[key] + value for key, value in state.items()} if total else state
    return total
