"""The processes of a training end with what has launched them, and no two trainings write to one folder."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import IO


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".training.lock"
_HELD: list[IO[str]] = []  # until the process ends


def end_with_launcher(seconds: float = 1.0) -> None:
    """
    End this process soon after its launcher has died; nothing where it was started by hand.

    A launcher (`accelerate launch`, `torchrun`) stops its processes when it is stopped, but not when it is killed: they
    would go on writing. A thread looks at the parent, so that it is noticed in the middle of a collective operation too.

    Args:
        seconds: Between two looks.
    """
    if not os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}:
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(seconds)
        os.write(2, b"The launcher has died: this process ends too.\n")
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
