"""Files that appear whole or not at all: after a kill or on a full disk the earlier one is still there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends, and goes when it breaks.

    The bytes are on the disk before the name is, so that not even a power cut leaves half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a run that was killed; a link of that name would be written through
    try:
        with naming(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """The error of a full disk, which does not know of what file, says in the block that it is `path`.

    Raises:
        OSError: also where a library written in Rust, such as safetensors, has an error of its own for the system's.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made."""
    with whole_file(path) as partial:
        partial.write_text(text)


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file whole or not at all; its folder is made."""
    write_text(path, json.dumps(data, indent=2) + "\n")
