"""The script that fills holes in real images counts what a classifier says of them, and draws a strip."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_autonat.metrics import load_extractor
from tests.conftest import LABELS, save_tiny_study


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_inpainting(monkeypatch, tmp_path, fashion_mnist):
    images, labels = fashion_mnist
    save_tiny_study(tmp_path, images)
    for number, (image, label) in enumerate(zip(images, labels)):
        if label in LABELS:  # the pipeline's classes
            file = tmp_path / "data" / "test" / f"class-{label}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    monkeypatch.setattr(sys, "argv", [
        "inpainting.py", str(tmp_path / "pipeline"), "--judge", str(tmp_path / "judge"), "--data", str(tmp_path / "data"),
        "--num-images", "12", "--steps", "4", "--output", str(tmp_path / "result.json"),
    ])  # fmt: skip
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "inpainting.py"), run_name="__main__")
    result = json.loads((tmp_path / "result.json").read_text())
    rows = result["rows"]
    original, reconstructed = rows[:2]
    files = sorted((tmp_path / "data").rglob("*.png"))[:12]  # the order of an image folder
    pixels = torch.stack(
        [torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in files]
    )
    predicted = load_extractor(str(tmp_path / "judge"))(pixels.view(12, 1, 28, 28) / 255)[1].argmax(-1)
    asked = torch.tensor([int(file.parent.name[-1]) for file in files])
    assert (
        original["recognised"] == pytest.approx((predicted == asked).float().mean().item()) and original["same"] == 1
    )
    assert reconstructed["images"] == "reconstructed" and len(rows) == 2 + 3 * 3
    assert {row["hole"] for row in rows[2:]} == {"middle", "lower half", "right half"}
    classes = len(set(asked.tolist()))
    assert Image.open(tmp_path / "result.png").size == (classes * 88, (1 + 3 * 4) * 88)


def test_a_hole_is_where_it_is_said(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from inpainting import mask_of

    mask = mask_of("middle", 28)
    assert mask.sum() == 12 * 12 and mask[0, 0, 8:20, 8:20].all()
    assert mask_of("lower half", 28)[0, 0, 12:].all() and mask_of("lower half", 28).sum() == 16 * 28
