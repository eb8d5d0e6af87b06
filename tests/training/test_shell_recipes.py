"""Recipes, of the shipped models and of the studies on them: every command of theirs is one that its script understands."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.documents import check_accelerate, check_python


TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def commands_of(tmp_path):
    """What a recipe calls, in the place of the programs."""
    for program in ("accelerate", "python"):
        (tmp_path / program).write_text(
            # in one write: a recipe may call several at once
            f'#!/bin/bash\nprintf "%s\\n" "$(printf "%q " {program} "$@")" >> {tmp_path}/said\n'
        )
        (tmp_path / program).chmod(0o755)

    def commands_of(recipe, *words):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", TRAINING / recipe, *words], check=True, env=os.environ | path)
        return [shlex.split(line) for line in (tmp_path / "said").read_text().splitlines()]

    return commands_of


@pytest.mark.parametrize(
    ("recipe", "folders", "scripts"),
    [
        ("fashion_mnist.sh", 2, "train_classifier train_vqgan tokenize_images train_autonat heuristic_grid"),
        ("icons.sh", 2, "icons train_classifier train_vqgan tokenize_images train_autonat train_text_judge"),
        ("own_images.sh", 2, "train_vqgan tokenize_images train_autonat train_classifier search_generation"),
        (
            "../search/evidence.sh",
            1,
            "experiments train_policy plot_policy tokenize_images search_alternating train_autonat search_generation",
        ),
    ],
)
def test_scripts_take_what_a_recipe_gives_them(recipe, folders, scripts, commands_of, tmp_path):
    commands = commands_of(recipe, *[tmp_path / "my images", tmp_path / "my models"][:folders])
    for program, *words in commands:
        (check_accelerate if program == "accelerate" else check_python)(words)
    called = [Path(word).stem for words in commands for word in words if word.endswith(".py")]
    assert set(called) == set(scripts.split())


def test_steps_are_named_and_what_is_there_is_not_made_again(commands_of, tmp_path):
    out, encoder = tmp_path / "icons", tmp_path / "encoder"
    (out / "perceptual").mkdir(parents=True)
    (out / "perceptual" / "config.json").write_text("{}")
    (command,) = commands_of("icons.sh", out, encoder, "perceptual", "vqgan")
    assert any(word.endswith("training/train_vqgan.py") for word in command) and str(out / "vqgan") in command
