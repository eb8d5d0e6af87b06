"""`training/icons.py` on three styles of drawings that are written here: the same data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets  # noqa: F401
import pyarrow.parquet  # noqa: F401
import resvg_py  # noqa: F401
from job import ROOT, Job, files, run_script

from diffusers_autonat.training import checks  # noqa: F401
from tests.training.test_icons import write_package


STYLES = ("noto", "twemoji", "emojione")
THINGS = 900  # with three styles more than two files of the training split


class Icons(Job):
    name = "icons/3-styles"

    def prepare(self, folder: Path) -> None:
        for style in STYLES:
            drawings = {f"thing-{i:04d}": f'<path d="M1 1h{1 + i / 200}v{1 + i % 14}H1z"/>' for i in range(THINGS)}
            write_package(folder / "packages" / style, drawings)

    def run(self, folder: Path, output: Path) -> None:
        run_script(ROOT / "training" / "icons.py", "--styles", *STYLES, "--source_dir", folder / "packages", "--resolution", 8,
                   "--output_dir", output)  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        return dict(files(output))


JOBS = [Icons()]
