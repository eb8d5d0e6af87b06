"""The processes of one command end with what has launched them."""

from __future__ import annotations

import os
import threading
import time


def has_launcher() -> bool:
    """Whether `accelerate launch` or `torchrun` has started this process, and no hand."""
    return bool(os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"})


def end_with_launcher(seconds: float = 1.0) -> None:
    """
    End this process soon after its launcher has died; nothing where it was started by hand.

    A launcher (`accelerate launch`, `torchrun`) stops its processes when it is stopped, but not when it is killed: they
    would go on writing. A thread looks at the parent, so that it is noticed in the middle of a collective operation too.

    Args:
        seconds: Between two looks.
    """
    if not has_launcher():
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(seconds)
        os.write(2, b"The launcher has died: this process ends too.\n")
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
