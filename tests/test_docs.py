"""What documents promise to be runnable is run, block after block as a reader would: Python here, commands on small data."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


ROOT = Path(__file__).parents[1]
# What makes a command of a page small; the page's own words stay.
SMALL = {
    "train vqgan": "--max_train_steps 3 --train_batch_size 8 --validation_steps 100",
    "train autonat": "--max_train_steps 2 --train_batch_size 8",
    "train classifier": "--num_train_epochs 1 --train_batch_size 16 --hidden_sizes 32 32 --depths 1 1",
    "search generation": "--sampler random --num-trials 2 --num-images 16 --confirm-top 1 --confirm-images 16",
    "generate outputs": "--num-images 1",
}


def blocks(page, language):
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with what a clone has in it; `outputs` is the reader's."""
    for name in ("model_cards", "search", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", ["README.md", "docs/orders.md", "docs/policies.md", "docs/speed.md", "docs/export.md"]
)
def test_the_python_runs(page, folder):
    names: dict = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
        if page == "README.md":
            assert names["images"][0].size == (28, 28)
        else:
            assert names["image"].size == (28, 28)
    if page == "README.md":
        assert names["completed"].size == (28, 28)


def commands(page):
    """The lines of a page's shell blocks that call the package."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("diffusers-autonat ")]


def run(line, folder, small=SMALL):
    words = shlex.split(line, comments=True)[1:]
    more = next((options for start, options in small.items() if line.startswith(f"diffusers-autonat {start}")), "")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "diffusers_autonat.cli", *words, *more.split()], cwd=folder, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, line + "\n" + done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_commands_that_draw(folder):
    for line in commands("docs/plots.md"):
        output = line.split("--output ")[1]
        run(line, folder)
        assert (folder / output).stat().st_size > 1000, line


@pytest.mark.slow
def test_own_images_to_a_searched_pipeline(folder, fashion_mnist):
    """The tutorial, from a folder of 64-pixel colour images; trainings of a few steps."""
    for i, (image, label) in enumerate(zip(*fashion_mnist)):
        place = folder / "IMAGES" / ("test" if i % 4 == 3 else "train") / f"kind-{label % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").resize((64, 64)).save(place / f"{i:02d}.png")
    said = [run(line, folder) for line in commands("docs/own_images.md")]
    assert any("Pipeline saved to outputs/autonat/pipeline" in text for text in said)
    assert any("8 images in 12 steps, rows: kind-0, kind-1" in text or "2 images in 12 steps" in text for text in said)
    assert any("strategy" in text and "the first gains" in text for text in said)
    made = ("autonat/pipeline/scheduler/search.json", "search-T8/result.json", "search.png", "strategy.png")
    assert all((folder / "outputs" / name).exists() for name in made)
