"""Kill this process at the n-th moment at which it is about to change something below a folder."""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


# What stands between a write, its fsync and its rename, and what removes. By what they take the place is told.
CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "truncate")


def install(folder: Path, log: Path, at: int | None, unwatched: Sequence[str] = ()) -> None:
    """
    Count calls that change files below `folder`; die before call number `at` (from 0), or never.

    Args:
        unwatched: Files and folders in `folder` whose changes are not counted.
        log: Gets a line for each call, so that an unbroken run shows how many there are.
    """
    root, count = str(folder.resolve()), 0
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def point(name: str, path: str) -> None:
        nonlocal count
        if path != root and not path.startswith(root + os.sep):
            return
        if path.removeprefix(root + os.sep).split(os.sep)[0] in unwatched:
            return
        os.write(log_file, f"{os.getpid()} {name} {path.removeprefix(root)}\n".encode())
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def where(target: Any, dir_fd: int | None = None) -> str:
        if isinstance(target, int):
            return os.readlink(f"/proc/self/fd/{target}")
        if dir_fd is not None:
            return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fsdecode(target))
        folder, name = os.path.split(os.path.abspath(os.fsdecode(target)))
        return os.path.join(os.path.realpath(folder), name)

    def before(name: str, call: Callable) -> Callable:
        def counted(target, *args, **kwargs):
            point(name, where(target, kwargs.get("dir_fd")))
            return call(target, *args, **kwargs)

        return counted

    for name in CALLS:
        setattr(os, name, before(name, getattr(os, name)))
    plain_open = builtins.open

    def counted_open(file, mode="r", *args, **kwargs):
        if set(mode) & set("wax+") and not isinstance(file, int):
            point(f"open {mode}", where(file))
        return plain_open(file, mode, *args, **kwargs)

    builtins.open = io.open = counted_open
