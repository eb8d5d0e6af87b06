"""What errors say."""

from __future__ import annotations

import reprlib
from typing import Any


def shown(value: Any) -> str:
    """A value of whatever kind and size as part of an error in one line."""
    try:
        text = " ".join(reprlib.repr(value).split())
    except Exception:  # more digits than Python prints, or a `__repr__` of somebody else's
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:100]}..."
