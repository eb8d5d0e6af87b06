"""Optuna's journal file, which a full disk or a power cut may tear: mended by whoever opens it or writes next."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from ..files import whole_file


logger = logging.getLogger(__name__)

OPERATION = b'{"op_code"'  # how each line begins; quotes within a line's strings are escaped
WINDOW = 4096  # bytes in which the last line is looked for first


class JournalLock(JournalFileSymlinkLock):
    """The link that locks a journal for Optuna too. Whoever gets it, and hence may write, has mended what a dead writer left.

    A link that stays as it is for `grace_period` seconds, while nothing is written, is of a dead worker and is broken. Of several
    that wait for it Optuna's own lock lets each break what the one before it has just taken; here one breaks it, and the others wait
    for that one. And a worker whose own link was broken, because it stood still, leaves that of its successor.
    """

    def __init__(self, path: str | Path):
        super().__init__(str(path))
        self._own: tuple[int, int] | None = None

    def acquire(self) -> bool:
        seen, since, delay = None, 0.0, 0.001
        while not self._taken():
            if (now := self._state()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > (self.grace_period or math.inf):
                self._break(now)
            time.sleep(delay)
            delay = min(2 * delay, 1.0)
        try:
            mend(self._lock_target_file)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self._link() == self._own:
            super().release()
        self._own = None

    def _taken(self) -> bool:
        """Take the lock if it is free."""
        try:
            os.symlink(self._lock_target_file, self._lock_file)
        except FileExistsError:
            return False
        self._own = self._link()
        return True

    def _link(self) -> tuple[int, int] | None:
        """What tells the link from those before and after it; None if there is none."""
        try:
            link = os.lstat(self._lock_file)
        except FileNotFoundError:
            return None
        return link.st_ino, link.st_mtime_ns

    def _state(self) -> tuple[tuple[int, int] | None, int]:
        """Of the link, and of what is written."""
        journal = Path(self._lock_target_file)
        return self._link(), journal.stat().st_mtime_ns if journal.exists() else 0

    def _break(self, stale: tuple[tuple[int, int] | None, int]) -> None:
        with FileLock(f"{self._lock_file}.break"):  # which the system takes back from whoever is killed here
            if self._state() == stale:
                logger.warning("%s was left by a worker that is gone, and is removed", self._lock_file)
                with suppress(RuntimeError):  # it was not gone
                    super().release()


def open_journal(path: str | Path) -> JournalStorage:
    """
    Open a journal, or begin one. Nothing that was finished is lost: what could not be written whole has been seen by
    no worker. It is set aside, into `<journal>.torn`, while no other worker writes.

    Raises:
        ValueError: The file is no journal, and is left as it is; or a line was overwritten later, which is named.
        OSError: It cannot be read or written.
    """
    # A link would have a lock of its own; and that of a relative path, left by a kill, is never broken by Optuna.
    path = Path(path).resolve()
    if not _is_journal(path):
        raise ValueError(f"{path} is not a journal of Optuna: name another file")
    with _held(JournalLock(path)):
        pass
    try:
        return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
    except (ValueError, TypeError, LookupError, AssertionError, RecursionError):
        with _held(JournalLock(path)):
            _split_lines(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
    except (ValueError, TypeError, LookupError, AssertionError) as error:
        raise ValueError(
            f"{path} is a damaged journal of Optuna ({error!r}): take a backup, or another file"
        ) from error


def mend(path: str | Path) -> None:
    """Make a journal end with a whole line. Its lock must be held, so that no living worker is writing that line."""
    with open(path, "rb") as file:
        start, line = _last_line(file)
    if line.endswith(b"\n") and _is_operation(line):
        return
    with open(path, "rb+") as file:
        operations, rest = _operations(line)
        if rest.strip():
            _set_aside(Path(path), [rest])
        if start + len(line) == file.seek(0, os.SEEK_END):  # else a writer whose lock was broken has just gone on
            file.truncate(start)
            file.seek(start)
            file.write(b"".join(one + b"\n" for one in operations))
            file.flush()
            os.fsync(file.fileno())


def _split_lines(path: Path) -> None:
    """Part operations that were appended to torn ones, as Optuna does it; no reader has come past such a line."""
    lines, torn = [], []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if _is_operation(line):
            lines.append(line)
            continue
        operations, rest = _operations(line)
        if not operations:
            raise ValueError(
                f"{path} is a damaged journal of Optuna: line {number} was overwritten, so that what follows is not"
                " known: take a backup, or another file"
            )
        lines += [one + b"\n" for one in operations]
        torn.append(rest)
    if torn:
        _set_aside(path, torn)
        with whole_file(path) as partial:
            partial.write_bytes(b"".join(lines))


def _set_aside(path: Path, torn: list[bytes]) -> None:
    aside = path.with_name(f"{path.name}.torn")
    with aside.open("ab") as file:
        file.write(b"".join(one.rstrip(b"\n") + b"\n" for one in torn))
    logger.warning(
        "%s had a torn line, as a full disk leaves it: %d bytes that no worker has read are in %s now",
        path, sum(map(len, torn)), aside.name,
    )  # fmt: skip


def _is_journal(path: Path) -> bool:
    if not path.exists():
        return True
    with path.open("rb") as file:
        first = file.readline().strip(b"\0")
    torn = not first.endswith(b"\n") and (first.startswith(OPERATION) or OPERATION.startswith(first))
    return torn or bool(_operations(first)[0])


def _is_operation(line: bytes) -> bool:
    return [line.rstrip(b"\n")] == _operations(line)[0]


def _operations(line: bytes) -> tuple[list[bytes], bytes]:
    """The whole operations within a line, and what else there is."""
    begin, *others = line.split(OPERATION)
    operations, rest = [], begin
    for text in ((OPERATION + other).decode(errors="replace") for other in others):
        try:
            operation, end = json.JSONDecoder().raw_decode(text)
            end *= "worker_id" in operation
        except (ValueError, RecursionError):
            end = 0
        operations += [text[:end].encode()] if end else []
        rest += text[end:].encode()
    return operations, rest


def _last_line(file) -> tuple[int, bytes]:
    """The last line of an open file, with or without its end, and where it begins."""
    size, window = file.seek(0, os.SEEK_END), WINDOW
    while True:
        start = max(0, size - window)
        file.seek(start)
        tail = file.read(size - start)
        begin = tail.rfind(b"\n", 0, max(0, len(tail) - 1)) + 1
        if begin or not start:
            return start + begin, tail[begin:]
        window *= 2


@contextmanager
def _held(lock: JournalLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
