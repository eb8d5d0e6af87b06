"""What surrounds a command: the packages it needs, and warnings as lines."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def require_metrics(command: str) -> None:
    """A ValueError that says what to install where `diffusers_autonat.metrics` cannot be imported."""
    try:
        from .. import metrics  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{command} needs more packages: `pip install diffusers-autonat[eval]` ({error}).") from error


@contextmanager
def warning_lines(shown: bool = True) -> Iterator[list[str]]:
    """The texts of the warnings given meanwhile, each once; they appear as one line and at once, above progress bars."""
    from tqdm.auto import tqdm

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
