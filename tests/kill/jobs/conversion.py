"""`diffusers-autonat convert`: a folder that is there when everything is done, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from job import Job, files

from diffusers_autonat.cli import main
from diffusers_autonat.conversion import folder as _  # noqa: F401
from diffusers_autonat.pipelines import pipeline_autonat  # noqa: F401
from tests.conftest import load_reference
from tests.conversion.released import RELEASED_YAML, load_vqgan


class Conversion(Job):
    name = "conversion/autonat"

    def prepare(self, folder: Path) -> None:
        uvit = load_reference("uvit")[0]
        torch.save(uvit | {"token_emb.position_ids": torch.arange(256)[None]}, folder / "nnet_ema.pth")
        torch.save({"state_dict": load_vqgan()[0]}, folder / "vqgan.ckpt")
        (folder / "T8.yaml").write_text(RELEASED_YAML)

    def run(self, folder: Path, output: Path) -> None:
        model = output / "model"
        if not model.exists():
            main(["convert", "--model", "autonat", "--checkpoint", str(folder / "nnet_ema.pth"), "--num-attention-heads", "4",
                  "--vqgan", str(folder / "vqgan.ckpt"), "--strategy", str(folder / "T8.yaml"), "--output", str(model)])  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        return files(output)


JOBS = [Conversion()]
