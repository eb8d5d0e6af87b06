"""What every training loop needs around its step: data order, randomness and checkpoints that survive a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from PIL import Image
from torch.utils.data import DataLoader


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


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """Complete `checkpoint-<step>` folders, oldest first. A folder still being written has another name."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


def save_checkpoint(accelerator: Accelerator, output_dir: str | Path, step: int, total_limit: int | None) -> None:
    """Write `checkpoint-<step>` and prune the oldest beyond `total_limit`; a kill in between leaves the last one whole."""
    final = Path(output_dir) / f"checkpoint-{step}"
    partial = final.with_name(f"partial-{final.name}")
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        if total_limit is not None:
            for folder in checkpoint_folders(output_dir)[:-total_limit]:
                shutil.rmtree(folder)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, output_dir: str | Path, resume_from: str | None) -> int:
    """Restore `resume_from` ("latest" or a folder); returns its step, or 0 where there is nothing to resume yet.

    Raises:
        ValueError: a named folder does not exist or is no checkpoint.
    """
    if resume_from is None:
        return 0
    if resume_from == "latest":
        folders = checkpoint_folders(output_dir)
        if not folders:
            accelerator.print(f"No checkpoint in {output_dir} yet: starting from the beginning.")
            return 0
        folder = folders[-1]
    else:
        folder = Path(resume_from)
        if not folder.is_dir() or not folder.name.removeprefix("checkpoint-").isdigit():
            raise ValueError(f"--resume_from_checkpoint {resume_from} is not a folder named checkpoint-<step>.")
    accelerator.load_state(str(folder))
    accelerator.print(f"Resumed from {folder}.")
    return int(folder.name.split("-")[1])


class History:
    """Training curve as JSON lines: read back for the plot on the model card; a resumed run drops what it will redo."""

    def __init__(self, path: str | Path, first_step: int, enabled: bool):
        self.path, self.enabled = Path(path), enabled
        if enabled:
            kept = [row for row in self.read(path) if row["step"] <= first_step] if first_step else []
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    @staticmethod
    def read(path: str | Path) -> list[dict[str, float]]:
        path = Path(path)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def append(self, row: dict[str, float]) -> None:
        if self.enabled:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def log_image(accelerator: Accelerator, name: str, picture: Image.Image, path: Path, step: int) -> None:
    """A picture as the file `path`, and to every tracker that takes images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    formats = {"tensorboard": {"dataformats": "NHWC"}}
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            images = {name: np.asarray(picture.convert("RGB"))[None]}
            tracker.log_images(images, step=step, **formats.get(tracker.name, {}))
