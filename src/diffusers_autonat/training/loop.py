"""What every training loop needs around its step: data order, randomness, the curve and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from PIL import Image
from torch.utils.data import DataLoader

from ..files import whole_file, write_text


MAX_SEED = 2**32 - 1  # that of numpy; `seed_step` makes 64 bits of it
# Of `diffusers.optimization.get_scheduler`, those that know all they need from the warm-up and the length.
LR_SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


def endless_batches(loader: DataLoader, first_batch: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Epoch after epoch of a prepared loader, entered `first_batch` batches after the very beginning.

    The order of an epoch depends on the seed and the epoch number only, so a resumed run sees the batches that an
    unbroken one would have seen.
    """
    epoch, skip = divmod(first_batch, len(loader))
    while True:
        loader.set_epoch(epoch)
        yield from skip_first_batches(loader, skip) if skip else loader
        epoch, skip = epoch + 1, 0


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Make all randomness of a step (masks, dropout, flips) a function of seed, step and process.

    So a resumed run repeats an unbroken one without storing the state of any random number generator.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + process_index)


class History:
    """Training curve as JSON lines: read back for the plot on the model card; a resumed run drops what it will redo."""

    def __init__(self, path: str | Path, first_step: int, enabled: bool):
        self.path, self.enabled = Path(path), enabled
        if enabled:
            kept = [row for row in self.read(path) if row["step"] <= first_step] if first_step else []
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    @staticmethod
    def read(path: str | Path) -> list[dict[str, float]]:
        """The rows, up to the first line that a kill or a full disk has cut."""
        path, rows = Path(path), list[dict[str, float]]()
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                print(f"{path}: only its first {len(rows)} lines are whole; what comes behind is left out.")
                break
            rows.append(row)
        return rows

    def append(self, row: dict[str, float]) -> None:
        if self.enabled:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    os.fsync(file.fileno())  # a checkpoint that comes later must not know more than the curve
            except OSError as error:  # a full disk's does not name the file
                raise OSError(error.errno, error.strerror, str(self.path)) from error


def save_picture(picture: Image.Image, path: Path) -> None:
    """A PNG file, whole or not at all."""
    with whole_file(path) as partial:
        picture.save(partial, "png")


def log_image(accelerator: Accelerator, name: str, picture: Image.Image, path: Path, step: int) -> None:
    """A picture as the file `path`, and to every tracker that takes images."""
    save_picture(picture, path)
    formats = {"tensorboard": {"dataformats": "NHWC"}}
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            images = {name: np.asarray(picture.convert("RGB"))[None]}
            tracker.log_images(images, step=step, **formats.get(tracker.name, {}))
