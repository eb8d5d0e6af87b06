"""The script that compares tokenizers counts what it says it counts."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import tiny_vqvae


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_compare_tokenizers(monkeypatch, tmp_path, fashion_mnist):
    images, labels = fashion_mnist
    for number, (image, label) in enumerate(zip(images[:40], labels)):
        file = tmp_path / "data" / f"class-{label}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    one, other = tiny_vqvae(), tiny_vqvae()
    torch.nn.init.zeros_(other.quant_conv.weight)  # all latents are the bias
    for name, vqvae in (("one", one), ("other", other)):
        vqvae.save_pretrained(tmp_path / name / "vqvae")
    words = ["compare_tokenizers.py", tmp_path / "one" / "vqvae", tmp_path / "other" / "vqvae", "--data", tmp_path / "data",
             "--num-images", 30, "--output", tmp_path / "result.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "compare_tokenizers.py"), run_name="__main__")
    result = json.loads((tmp_path / "result.json").read_text())
    first, second = result["rows"]
    assert (first["tokenizer"], second["tokenizer"], result["num_images"]) == ("one", "other", 30)
    assert 1 < first["dimensions"] <= one.config.latent_channels and first["perplexity"] >= 1
    assert second["perplexity"] == 1 and 0 < second["l1"] < 1 and second["l1"] != pytest.approx(first["l1"])
    assert Image.open(tmp_path / "result.png").width > Image.open(tmp_path / "result.png").height
