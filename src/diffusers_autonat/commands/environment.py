"""What surrounds a command: the packages it needs."""

from __future__ import annotations


def require_metrics(command: str) -> None:
    """A ValueError that says what to install where `diffusers_autonat.metrics` cannot be imported."""
    try:
        from .. import metrics  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{command} needs more packages: `pip install diffusers-autonat[eval]` ({error}).") from error
