"""`training/tokenize_images.py` on all images, and on two shards at once: the same files, byte by byte."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import datasets  # noqa: F401
from job import ROOT, Job, files, forked, run_script

from diffusers_autonat.training import tokenizing  # noqa: F401
from tests.conftest import load_fashion_mnist
from tests.training.conftest import save_captioned


class Tokenizing(Job):
    def __init__(self, shards: int):
        self.name, self.processes = f"tokenizing/{shards}-shard", shards

    def prepare(self, folder: Path) -> None:
        forked(lambda: save_captioned(folder, *load_fashion_mnist()))

    def run(self, folder: Path, output: Path) -> None:
        shard = f"{os.environ.get('RANK', 0)}/{self.processes}"
        run_script(ROOT / "training" / "tokenize_images.py", "--train_data_dir", folder / "images", "--vqvae", folder / "vqvae",
                   "--resolution", 28, "--label_column", "none", "--caption_column", "captions", "--batch_size", 4,
                   "--images_per_part", 4, "--shard", shard, "--output_dir", output)  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        return dict(files(output))

    def damage(self, output: Path, random: Random) -> str | None:
        paths = sorted(path for path in output.rglob("*") if path.suffix in (".arrow", ".json"))
        if not paths:
            return None
        path = random.choice(paths)
        os.truncate(path, random.randrange(path.stat().st_size))
        return f"{path.relative_to(output)} cut"


JOBS = [Tokenizing(1), Tokenizing(2)]
