"""No two trainings write to one folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".training.lock"
_HELD: list[IO[str]] = []  # until the process ends


def hold_folder(folder: str | Path, seconds: float = 5.0) -> None:
    """
    Keep other trainings out of `folder` for as long as this process lives.

    Args:
        seconds: To wait for processes whose launcher was killed a moment ago.

    Raises:
        ValueError: another training is writing there; names its process.
    """
    if fcntl is None:
        return
    file = open(Path(folder, LOCK), "a+")
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                file.seek(0)
                raise ValueError(
                    f"{folder} is being written by another training (process {file.read().strip()}): end it, or name another "
                    "--output_dir."
                ) from None
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _HELD.append(file)
