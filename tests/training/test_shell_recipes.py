"""Recipes, of the shipped models and of the studies on them: every command of theirs is one that its script understands."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.documents import check_accelerate, check_python, script_parser


TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def commands_of(tmp_path):
    """What a recipe calls, in the place of the programs."""
    for program in ("accelerate", "python"):
        (tmp_path / program).write_text(
            # in one write: a recipe may call several at once
            f'#!/bin/bash\nprintf "%s\\n" "$(printf "%q " {program} "$@")" >> {tmp_path}/said\n'
            '[ "$1" != -c ] || echo 1000\n'  # what a recipe reads from its results
        )
        (tmp_path / program).chmod(0o755)

    def commands_of(recipe, *words):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", TRAINING / recipe, *words], check=True, env=os.environ | path)
        return [shlex.split(line) for line in (tmp_path / "said").read_text().splitlines()]

    return commands_of


def check_experiment(script, *words):
    """What it checks before it makes an image, such as whether a search's updates fit into its trials."""
    args = script_parser(TRAINING.parent / script).parse_args(words)
    if not str(getattr(args, "start", "")).endswith(".json"):  # which another study writes first
        args.run.__globals__["check"](args)


@pytest.mark.parametrize(
    ("recipe", "folders", "scripts"),
    [
        ("fashion_mnist.sh", 2, "train_classifier train_vqgan tokenize_images train_autonat heuristic_grid"),
        ("icons.sh", 2, "icons train_classifier train_vqgan tokenize_images train_autonat train_text_judge"),
        ("own_images.sh", 2, "train_vqgan tokenize_images train_autonat train_classifier search_generation"),
        (
            "../search/evidence.sh",
            1,
            "experiments search_noise search_sharing train_policy policy_parts tokenize_images search_alternating train_autonat "
            "search_generation",
        ),
    ],
)
def test_scripts_take_what_a_recipe_gives_them(recipe, folders, scripts, commands_of, tmp_path, monkeypatch):
    monkeypatch.chdir(TRAINING.parent)
    commands = commands_of(recipe, *[tmp_path / "my images", tmp_path / "my models"][:folders])
    for program, *words in commands:
        (check_accelerate if program == "accelerate" else check_python)(words)
        if words[0].endswith("experiments.py") and "--" not in words:
            check_experiment(*words)
    called = [Path(word).stem for words in commands for word in words if word.endswith(".py")]
    assert set(called) == set(scripts.split())


def test_steps_are_named_and_what_is_there_is_not_made_again(commands_of, tmp_path):
    out, encoder = tmp_path / "icons", tmp_path / "encoder"
    (out / "perceptual").mkdir(parents=True)
    (out / "perceptual" / "config.json").write_text("{}")
    (command,) = commands_of("icons.sh", out, encoder, "perceptual", "vqgan")
    assert any(word.endswith("training/train_vqgan.py") for word in command) and str(out / "vqgan") in command
