"""The script as its command line runs it, on tiny random models: results, a kill, a resume, the guard, two processes."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_autonat import AutoNATPipeline, GenerationStrategy
from diffusers_autonat.metrics import compute_reference, load_extractor, save_reference
from diffusers_autonat.training.checkpoints import checkpoint_folders
from diffusers_autonat.training.loop import History
from tests.conftest import save_tiny_classifier, save_tiny_study
from tests.training.test_scripts_in_process import SCRIPTS, run


@pytest.fixture(scope="module")
def study(tmp_path_factory, fashion_mnist):
    """`save_tiny_study`, and a `second` extractor with its reference."""
    folder = tmp_path_factory.mktemp("study")
    save_tiny_study(folder, fashion_mnist[0])
    save_tiny_classifier(folder / "second", seed=1)
    samples = [(torch.from_numpy(np.flip(image).copy())[None], None) for image in fashion_mnist[0]]
    save_reference(compute_reference(samples, load_extractor(str(folder / "second"))), folder / "second.npz")
    return folder


def policy_args(study, output, *more):
    return ["--pretrained_model_name_or_path", study / "pipeline", "--num_inference_steps", 4, "--reference",
            study / "reference.npz", "--feature_extractor", study / "judge", "--output_dir", output,
            "--policy_hidden_size", 8, "--policy_conv_channels", 4, "--policy_mlp_channels", 8, 8,
            "--images_per_update", 16, "--rollout_batch_size", 16, "--train_batch_size", 8, "--ppo_epochs", 2,
            "--learning_rate", "1e-3", "--max_train_steps", 4, "--num_validation_images", 12, "--validation_steps", 2,
            "--min_class_consistency", 0, "--checkpointing_steps", 1, "--checkpoints_total_limit", 9, *more]  # fmt: skip


BOTH = ("--reward", "influence", "discriminator", "--num_real_images", 32, "--discriminator_batch_size", 8)


def weights(output):
    return load_file(output / "pipeline" / "policy" / "diffusion_pytorch_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def trained(study, image_folder, tmp_path_factory):
    """Four updates by both rewards, watched by a second extractor."""
    output = tmp_path_factory.mktemp("trained")
    args = policy_args(study, output, *BOTH, "--real_images", image_folder.parent / "four")
    real = image_folder.parent / "four"
    if not real.exists():  # as many classes as the pipeline has
        for label in range(4):
            shutil.copytree(image_folder / f"class-{label}", real / f"class-{label}")
    args += ["--second_feature_extractor", study / "second", "--second_reference", study / "second.npz"]
    subprocess.run(
        [sys.executable, str(SCRIPTS / "train_policy.py"), *map(str, args)],
        check=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    return output, args


def test_a_pipeline_with_the_policy_is_saved_with_card_and_curves(study, trained):
    output, _ = trained
    pipeline = AutoNATPipeline.from_pretrained(output / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.policy.config.num_inference_steps == 4 and pipeline("dog").images[0].size == (28, 28)
    assert pipeline.policy.config.strategy == pipeline.scheduler.get_strategy(4).to_dict()
    before, after = (
        load_file(folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (study, output)
    )
    assert same(before, after)
    history, validations = (History.read(output / f"{name}.jsonl") for name in ("history", "validation"))
    assert [row["step"] for row in history] == [1, 2, 3, 4] and [row["step"] for row in validations] == [0, 2, 4]
    assert history[0]["action_std"] == 0.6 and history[-1]["action_std"] == pytest.approx(0.1)
    assert {"rollout_frechet_distance", "fake_score", "discriminator_loss", "approx_kl"} <= history[0].keys()
    assert {"distance", "second_distance", "second_error", "class_consistency"} <= validations[0].keys()
    card = (output / "pipeline" / "README.md").read_text()
    assert "| at the start |" in card and "--ppo_epochs 2" in card and str(output.parent) not in card
    assert all((output / "pipeline" / name).stat().st_size > 3000 for name in ("training.png", "samples.png"))
    files = {path.suffix for path in (output / "checkpoint-4").iterdir()}
    assert files == {".safetensors", ".json"}


def test_resumed_is_as_unbroken(trained, tmp_path, monkeypatch, capsys):
    output, args = trained
    shutil.copytree(output / "checkpoint-2", tmp_path / "checkpoint-2")
    args = [*args, "--output_dir", tmp_path, "--resume_from_checkpoint", "latest"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run("train_policy.py", args, monkeypatch, capsys) == (0, [])
    finally:
        torch.set_num_threads(threads)
    for name in ("policy", "optimizer", "guard", "influence", "discriminator", "discriminator_optimizer"):
        one, other = (load_file(folder / "checkpoint-4" / f"{name}.safetensors") for folder in (output, tmp_path))
        assert same(one, other), name
    assert same(weights(output), weights(tmp_path))
    one, other = (json.loads((folder / "checkpoint-4" / "state.json").read_text()) for folder in (output, tmp_path))
    assert one == other


def test_killed_it_goes_on(study, tmp_path, monkeypatch, capsys):
    args = policy_args(study, tmp_path, "--max_train_steps", 12, "--validation_steps", 50)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "train_policy.py"), *map(str, args)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(checkpoint_folders(tmp_path)) < 2 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert len(checkpoint_folders(tmp_path)) >= 2 and not (tmp_path / "pipeline").exists()
    args += ["--resume_from_checkpoint", "latest"]
    assert run("train_policy.py", args, monkeypatch, capsys) == (0, [])
    assert [row["step"] for row in History.read(tmp_path / "history.jsonl")] == list(range(1, 13))
    assert (tmp_path / "pipeline" / "policy").is_dir()


def test_the_guard_stops_it_and_a_resume_does_not_go_on(study, tmp_path, monkeypatch, capsys):
    args = policy_args(study, tmp_path, "--min_class_consistency", 1, "--resume_from_checkpoint", "latest")
    for _ in range(2):
        capsys.readouterr()
        assert run("train_policy.py", args, monkeypatch, capsys) == (0, [])
        assert not History.read(tmp_path / "history.jsonl")  # the start is no better
        card = (tmp_path / "pipeline" / "README.md").read_text()
        assert "The training was stopped: the class consistency fell to" in card and "update 0" in card


def test_it_goes_on_from_the_policy_of_a_pipeline(trained, study, tmp_path, monkeypatch, capsys):
    output, _ = trained
    args = policy_args(study, tmp_path, "--pretrained_model_name_or_path", output / "pipeline", "--max_train_steps", 1)
    args += ["--learning_rate", 0]
    status, [line] = run("train_policy.py", args, monkeypatch, capsys)
    assert (
        status == 2 and "has a policy, whose hidden_size, conv_channels, mlp_channels is its own: leave these" in line
    )
    sizes = args.index("--policy_hidden_size")
    del args[sizes : args.index("--images_per_update")]
    assert run("train_policy.py", args, monkeypatch, capsys) == (0, [])
    assert same(weights(output), weights(tmp_path))


@pytest.mark.parametrize("changed", [["--num_inference_steps", 8], ["--action_smooth", 0], ["--strategy", "OTHER"]])
def test_a_checkpoint_of_another_policy_is_refused(trained, tmp_path, changed, monkeypatch, capsys):
    output, args = trained
    shutil.copytree(output / "checkpoint-2", tmp_path / "checkpoint-2")
    GenerationStrategy.cosine(4, guidance_scale=1.5).to_json(tmp_path / "other.json")
    changed = [tmp_path / "other.json" if word == "OTHER" else word for word in changed]
    args = [*args, "--output_dir", tmp_path, "--resume_from_checkpoint", "latest", *changed]
    status, lines = run("train_policy.py", args, monkeypatch, capsys)
    assert status == 2 and "holds another config than this training has: repeat the options" in lines[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--reward", "influence", "influence"], "takes each once"),
        (["--reward_weights", 1, 2], "one for each"),
        (["--reward", "discriminator"], "name them with --real_images"),
        (["--second_reference", "x"], "goes with --second_feature_extractor"),
        (["--action_smooth", 1], "take less"),
        (["--num_inference_steps", 5], "no strategy is stored for num_inference_steps=5"),
        (["--second_feature_extractor", "/nowhere"], "'/nowhere' is not `inception`"),
        (["--second_feature_extractor", "EXTRACTOR"], "has the weights of the first"),
        (["--second_feature_extractor", "OTHER"], "a reference of its own: --second_reference"),
        (["--action_std", 0], "not a finite number of at least 1e-06"),
        (["--reference", "/nowhere.npz"], "There is no reference /nowhere.npz"),
        (["--pretrained_model_name_or_path", "/nowhere"], "/nowhere is no folder of a pipeline"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(study, tmp_path, more, message, monkeypatch, capsys):
    folders = {"EXTRACTOR": study / "judge", "OTHER": study / "second"}
    more = [folders.get(word, word) for word in more]
    status, lines = run("train_policy.py", policy_args(study, tmp_path, *more), monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and message in lines[0], lines
    assert not checkpoint_folders(tmp_path)


@pytest.mark.slow
def test_two_processes_share_the_images(study, tmp_path):
    from tests.training.test_scripts import launch

    args = policy_args(study, tmp_path, "--max_train_steps", 2, "--second_feature_extractor", study / "second")
    launch("train_policy.py", *args, "--second_reference", study / "second.npz", processes=2)
    shutil.copytree(tmp_path, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-2")
    launch("train_policy.py", *args, "--output_dir", tmp_path / "again", "--second_reference", study / "second.npz",
           "--resume_from_checkpoint", "latest", processes=2)  # fmt: skip
    assert same(weights(tmp_path), weights(tmp_path / "again"))
    assert History.read(tmp_path / "validation.jsonl") == History.read(tmp_path / "again" / "validation.jsonl")
