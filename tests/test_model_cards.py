"""What is shipped loads, works as its card says, and is complete."""

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForImageClassification

from diffusers_autonat import AutoNATPipeline


CARDS = Path(__file__).parents[1] / "model_cards"
FASHION = CARDS / "autonat-fashion-mnist"


@pytest.mark.parametrize("folder", sorted(path for path in CARDS.iterdir() if path.is_dir()), ids=lambda path: path.name)
def test_cards_are_complete(folder):
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license == "apache-2.0" and card.data.library_name in ("diffusers", "transformers")
    assert not re.search(r"TODO|\[More Information Needed\]", text)
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (folder / name).exists(), f"{folder.name}/README.md shows {name}, which does not exist"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pkl", ".pt", ".pth", ".ckpt")]


def test_the_code_on_the_card_runs(monkeypatch, tmp_path):
    code = re.search(r"```python\n(.*?)```", (FASHION / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(CARDS)
    scope = {}
    exec(code, scope)
    assert all(isinstance(image, Image.Image) for image in scope["images"])


def test_the_shipped_model():
    pipe = AutoNATPipeline.from_pretrained(FASHION)
    pipe.set_progress_bar_config(disable=True)
    assert sorted(pipe.scheduler.stored_strategies) == [4, 8]
    assert len(pipe.id2label) == 10 and pipe.transformer.config.sample_size**2 <= 64
    images = pipe(list(range(10)), num_images_per_prompt=4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    judge = AutoModelForImageClassification.from_pretrained(CARDS / "fashion-mnist-classifier").eval()
    with torch.no_grad():
        predicted = judge(images * 2 - 1).logits.argmax(-1)
    # 40 images, nearly all of which are recognised: a broken file or scheduler would leave one in ten.
    assert (predicted == torch.arange(10).repeat_interleave(4)).float().mean() > 0.8
    # No two images of a class alike.
    assert (images.view(10, 4, -1).std(dim=1).mean(-1) > 0.02).all()
