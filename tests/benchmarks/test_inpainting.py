"""The script that fills holes in real images counts what a judge says of them, and draws some."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_autonat.metrics import TextTower, load_extractor, r_precision
from tests.conftest import LABELS, save_tiny_study
from tests.metrics.test_r_precision import CAPTIONS, save_tiny_clip
from tests.pipelines.text_encoders import tiny_text_pipeline


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(monkeypatch, folder, pipeline, *more):
    """What the script writes of `folder / "data"`."""
    words = [
        "inpainting.py",
        pipeline,
        "--data",
        folder / "data",
        "--steps",
        4,
        "--output",
        folder / "result.json",
        *more,
    ]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "inpainting.py"), run_name="__main__")
    return json.loads((folder / "result.json").read_text())


def test_inpainting(monkeypatch, tmp_path, fashion_mnist):
    images, labels = fashion_mnist
    save_tiny_study(tmp_path, images)
    for number, (image, label) in enumerate(zip(images, labels)):
        if label in LABELS:  # the pipeline's classes
            file = tmp_path / "data" / "test" / f"class-{label}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    result = run(monkeypatch, tmp_path, tmp_path / "pipeline", "--judge", tmp_path / "judge", "--num-images", 12)
    rows = result["rows"]
    original, reconstructed = rows[:2]
    files = sorted((tmp_path / "data").rglob("*.png"))[:12]  # the order of an image folder
    pixels = torch.stack(
        [torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in files]
    )
    predicted = load_extractor(str(tmp_path / "judge"))(pixels.view(12, 1, 28, 28) / 255)[1].argmax(-1)
    asked = torch.tensor([int(file.parent.name[-1]) for file in files])
    assert original["recognised"] == pytest.approx((predicted == asked).float().mean().item(), abs=1e-4)
    assert reconstructed["images"] == "reconstructed" and len(rows) == 2 + 3 * 3
    assert {row["hole"] for row in rows[2:]} == {"middle", "lower half", "right half"}
    assert {row["images"] for row in rows[3:]} >= {"filled", "filled as the next class"}
    picture = Image.open(tmp_path / "result.png")
    assert picture.width > 13 * 84 and picture.height > len(set(asked.tolist())) * 84


def test_inpainting_from_captions(monkeypatch, tmp_path, fashion_mnist):
    """110 images, since a judge of captions compares with 99 others."""
    tiny_text_pipeline().save_pretrained(tmp_path / "pipeline")
    judge = save_tiny_clip(tmp_path / "judge")
    (tmp_path / "data" / "test").mkdir(parents=True)
    lines = []
    for number, caption in enumerate(CAPTIONS[:110]):
        Image.fromarray(fashion_mnist[0][number % 64]).save(tmp_path / "data" / "test" / f"{number:03d}.png")
        lines.append(json.dumps({"file_name": f"{number:03d}.png", "caption": caption}))
    (tmp_path / "data" / "test" / "metadata.jsonl").write_text("\n".join(lines))
    result = run(monkeypatch, tmp_path, tmp_path / "pipeline", "--judge", judge)
    original = result["rows"][0]["recognised"]
    extractor, tower = load_extractor(judge), TextTower(judge)
    images = torch.from_numpy(fashion_mnist[0])[torch.arange(110) % 64, None] / 255
    features = tower.embed_images(extractor(images)[0])
    assert original == pytest.approx(r_precision(features, tower.embed_texts(CAPTIONS[:110])).item(), abs=1e-4)
    assert len(result["rows"]) == 2 + 3 * 3 and {row["images"] for row in result["rows"][3:]} >= {
        "filled", "filled as the next caption"
    }  # fmt: skip
    assert Image.open(tmp_path / "result.png").height > 8 * 84


def test_a_hole_is_where_it_is_said(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from inpainting import mask_of

    mask = mask_of("middle", 28)
    assert mask.sum() == 12 * 12 and mask[0, 0, 8:20, 8:20].all()
    assert mask_of("lower half", 28)[0, 0, 12:].all() and mask_of("lower half", 28).sum() == 16 * 28
