"""`diffusers-autonat evaluate --resume`, on one process and on two: the same numbers and the same images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accelerate.utils  # noqa: F401
import torchmetrics  # noqa: F401
from job import Job, files, forked

from diffusers_autonat import metrics  # noqa: F401
from diffusers_autonat.cli import main
from diffusers_autonat.metrics import image_files  # noqa: F401
from diffusers_autonat.pipelines import pipeline_autonat  # noqa: F401
from tests.conftest import load_fashion_mnist, save_tiny_study


class Evaluation(Job):
    def __init__(self, processes: int):
        self.name, self.processes = f"evaluation/{processes}-process", processes

    def prepare(self, folder: Path) -> None:
        forked(lambda: save_tiny_study(folder, load_fashion_mnist()[0]))

    def run(self, folder: Path, output: Path) -> None:
        output.mkdir(exist_ok=True)
        main(["evaluate", str(folder / "pipeline"), "--feature-extractor", str(folder / "judge"), "--metrics", "fid,class",
              "--reference", str(folder / "reference.npz"), "--num-images", "96", "--num-inference-steps", "4",
              "--images-per-call", "8", "--save-seconds", "0", "--save-images", str(output / "images"), "--resume",
              "--output", str(output / "report.json")])  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        report = json.loads((output / "report.json").read_text())
        result = {name: report[name] for name in ("values", "pipeline", "extractor", "reference", "images")}
        left = [path.name for path in output.iterdir() if path.name not in ("report.json", "images")]
        return result | files(output / "images") | {"leftovers": left}


JOBS = [Evaluation(1), Evaluation(2)]
