"""Files that appear whole or not at all: after a kill or on a full disk the earlier one is still there."""

from __future__ import annotations

import json
import os
import shutil
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
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        _name(error, path)
        raise


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder `partial-<name>` beside `path` to fill; it becomes `path` when the block ends, and goes when it breaks.

    Where `path` is there already and not empty, its files are replaced one by one once all new ones are on the disk; others stay.
    """
    path = Path(path)
    partial = path.with_name(f"partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        files = [file for file in sorted(partial.rglob("*")) if file.is_file()]
        for file in files:
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if path.is_symlink() or (path.is_dir() and any(path.iterdir())):
            for file in files:
                target = path / file.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            shutil.rmtree(partial)
        else:
            os.replace(partial, path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _name(error, path)
        raise


def _name(error: BaseException, path: Path) -> None:
    """A full disk's error does not know of what file; now it says so."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made."""
    with whole_file(path) as partial:
        partial.write_text(text)


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file whole or not at all; its folder is made."""
    write_text(path, json.dumps(data, indent=2) + "\n")
