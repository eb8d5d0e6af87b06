"""The training scripts as a user launches them, on 64 real images: checkpoints, pruning, resuming, processes, results."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import VQModel
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from diffusers_autonat import AutoNATPipeline, ENATTransformer2DModel, GenerationStrategy
from diffusers_autonat.training.checkpoints import checkpoint_folders
from diffusers_autonat.training.loop import History
from diffusers_autonat.training.tokens import load_token_set
from tests.bad_images import write_bad_files
from tests.conftest import tiny_vqvae


SCRIPTS = Path(__file__).parents[2] / "training"
SHIPPED = Path(__file__).parents[2] / "model_cards" / "autonat-fashion-mnist"


def launch_command(processes=1):
    """`accelerate launch` on the CPU, whatever hardware there is."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", processes,
               "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]  # fmt: skip
    # `--cpu` would start one process only, silently; `--multi_gpu` starts as many as asked for, and these take the CPU.
    return [*command, "--multi_gpu" if processes > 1 else "--cpu"]


def launch(script, *args, processes=1):
    """What the script prints; where it hangs, the test fails with the stack of every process that it started."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "PYTHONFAULTHANDLER": "1"}
    command = [str(word) for word in (*launch_command(processes), SCRIPTS / script, *args)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            output, errors = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            for started in (*psutil.Process(process.pid).children(recursive=True), process):
                started.send_signal(signal.SIGABRT)
            output, errors = process.communicate()
    assert process.returncode == 0, output[-2000:] + errors[-8000:]
    return output


@pytest.fixture(scope="module")
def tokens(idx_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tiny_vqvae().save_pretrained(folder / "vqvae")
    command = [
        sys.executable,
        SCRIPTS / "tokenize_images.py",
        "--train_data_dir",
        idx_folder,
        "--vqvae",
        folder / "vqvae",
    ]
    command += ["--resolution", "28", "--output_dir", folder / "tokens", "--images_per_part", "20"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def autonat_args(tokens, output, steps, *extra):
    return ["--train_data_dir", tokens / "tokens", "--vqvae", tokens / "vqvae", "--output_dir", output, "--hidden_size", 32,
            "--num_layers", 3, "--num_attention_heads", 4, "--use_ema", "--lr_warmup_steps", 2, "--max_train_steps", steps,
            "--learning_rate", "3e-3", "--logging_steps", 1, "--validation_steps", 100, *extra]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tokens, tmp_path_factory):
    """12 steps without a break: more than the 8 batches of an epoch, so a resumed run has to find its place."""
    output = tmp_path_factory.mktemp("unbroken")
    launch("train_autonat.py", *autonat_args(tokens, output, 12, "--train_batch_size", 16, "--checkpointing_steps", 4,
           "--checkpoints_total_limit", 2, "--mask_alpha", 10, "--num_inference_steps", 3, 5))  # fmt: skip
    return output


def test_tokenize_script(tokens):
    dataset, info = load_token_set(tokens / "tokens")
    assert len(dataset) == 128 and info.num_images == 64 and len(info.label_names) == 10


def test_autonat_saves_a_pipeline_with_card_and_curves(unbroken):
    pipeline = AutoNATPipeline.from_pretrained(unbroken / "pipeline")
    assert sorted(pipeline.scheduler.stored_strategies) == [3, 5]
    assert pipeline.scheduler.get_strategy(3) == GenerationStrategy.cosine(3)
    assert pipeline.id2label[9] == "Ankle boot"
    assert pipeline("Ankle boot", 3).images[0].size == (28, 28)
    card = (unbroken / "pipeline" / "README.md").read_text()
    assert "TODO" not in card and "--mask_alpha 10" in card and "{" not in card.split("p(r)")[0]
    assert (
        str(unbroken.parent) not in card
        and str(SCRIPTS.parent) not in card
        and f"--output_dir {unbroken.name}" in card
    )
    assert (
        "9 Ankle boot" in card
        and "trust_remote_code=True" in card
        and (unbroken / "pipeline" / "pipeline.py").exists()
    )
    data = ModelCard(card).data
    assert (data.license, data.library_name, data.datasets) == ("unknown", "diffusers", None)
    assert data.pipeline_tag == "unconditional-image-generation" and "class-conditional" in data.tags
    assert (unbroken / "pipeline" / "training.png").stat().st_size > 5_000
    assert (unbroken / "samples" / "step-0000012.png").exists()
    history = History.read(unbroken / "history.jsonl")
    assert [row["step"] for row in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] and 0 <= history[-1]["token_accuracy"] <= 1
    assert list((unbroken / "logs").rglob("events.out.tfevents*"))


def test_autonat_prunes_checkpoints(unbroken):
    assert [folder.name for folder in checkpoint_folders(unbroken)] == ["checkpoint-8", "checkpoint-12"]


def test_autonat_resumed_has_the_weights_of_an_unbroken_run(tokens, unbroken, tmp_path):
    args = ("--train_batch_size", 16, "--checkpointing_steps", 1, "--mask_alpha", 10, "--num_inference_steps", 3, 5)
    command = [sys.executable, SCRIPTS / "train_autonat.py", *autonat_args(tokens, tmp_path, 12, *args)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}  # as `launch` sets them
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    )
    while len(checkpoint_folders(tmp_path)) < 4 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert len(checkpoint_folders(tmp_path)) >= 4 and not (tmp_path / "pipeline").exists()
    launch("train_autonat.py", *autonat_args(tokens, tmp_path, 12, *args, "--resume_from_checkpoint", "latest"))
    name = Path("pipeline", "transformer", "diffusion_pytorch_model.safetensors")
    resumed, whole = load_file(tmp_path / name), load_file(unbroken / name)
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert [row["step"] for row in History.read(tmp_path / "history.jsonl")] == list(range(1, 13))


@pytest.mark.parametrize(
    "transformer, losses",
    [
        (["uvit", "--num_layers", 3], [2.816204309463501, 2.8233578205108643, 2.7982170581817627]),
        # The first two steps reuse features, the third does not.
        (
            ["enat", "--num_layers", 2, "--num_decoder_layers", 1],
            [2.7907397747039795, 2.7971553802490234, 2.790405750274658],
        ),
    ],
    ids=["uvit", "enat"],
)
def test_losses_are_those_recorded_before_objectives_had_files(tokens, tmp_path, transformer, losses):
    launch("train_autonat.py", *autonat_args(tokens, tmp_path, 3, "--train_batch_size", 16, "--learning_rate", "3e-4",
           "--transformer", *transformer))  # fmt: skip
    assert [row["loss"] for row in History.read(tmp_path / "history.jsonl")] == pytest.approx(losses, rel=1e-6)


def test_two_processes_follow_one_with_the_doubled_batch(tokens, unbroken, tmp_path):
    args = ("--train_batch_size", 8, "--mask_alpha", 10, "--checkpointing_steps", 100)
    output = launch("train_autonat.py", *autonat_args(tokens, tmp_path, 12, *args), processes=2)
    assert "12 steps of 16" in output  # two processes of 8
    one, two = (History.read(folder / "history.jsonl") for folder in (unbroken, tmp_path))
    assert [row["lr"] for row in two] == pytest.approx([row["lr"] for row in one])
    assert [row["step"] for row in two] == list(range(1, 13))
    # The masks differ, so single losses do too; their course must not.
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        means = [sum(row["loss"] for row in rows[part]) / 4 for rows in (one, two)]
        assert means[1] == pytest.approx(means[0], abs=0.1)


def test_autonat_takes_images_and_accumulates_gradients(tokens, image_folder, tmp_path):
    launch(
        "train_autonat.py", "--train_data_dir", image_folder, "--vqvae", tokens / "vqvae", "--resolution", 28, "--no_flips",
        "--output_dir", tmp_path, "--hidden_size", 32, "--num_layers", 3, "--num_attention_heads", 4, "--max_train_steps", 2,
        "--train_batch_size", 8, "--gradient_accumulation_steps", 2, "--gradient_checkpointing", "--mask_distribution", "arccos",
        "--lr_warmup_steps", 0, "--logging_steps", 1,
    )  # fmt: skip
    assert len(load_token_set(tmp_path / "tokens")[0]) == 64
    pipeline = AutoNATPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipeline.id2label[0] == "class-0"


def test_enat_trains_on_two_processes_and_resumes(tokens, tmp_path):
    args = ("--transformer", "enat", "--num_decoder_layers", 1, "--num_layers", 2, "--train_batch_size", 8)
    folders = [tmp_path / "unbroken", tmp_path / "resumed"]
    launch("train_autonat.py", *autonat_args(tokens, folders[0], 8, *args, "--checkpointing_steps", 4), processes=2)
    shutil.copytree(folders[0] / "checkpoint-4", folders[1] / "checkpoint-4")
    output = launch(
        "train_autonat.py",
        *autonat_args(tokens, folders[1], 8, *args, "--resume_from_checkpoint", "latest"),
        processes=2,
    )
    assert "Resumed from" in output
    name = Path("pipeline", "transformer", "diffusion_pytorch_model.safetensors")
    whole, resumed = (load_file(folder / name) for folder in folders)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    initial = ENATTransformer2DModel.from_pretrained(folders[0] / "pipeline", subfolder="transformer").reuse_proj
    assert initial.ff.net[2].bias.abs().max() > 0  # zero at the start: some batch has reused features
    pipeline = AutoNATPipeline.from_pretrained(folders[0] / "pipeline")
    assert pipeline.scheduler.get_strategy(8) == GenerationStrategy.enat(8)
    assert "transformer (ENAT, " in (folders[0] / "pipeline" / "README.md").read_text()
    assert pipeline("Ankle boot", 8).images[0].size == (28, 28)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_launcher_takes_its_workers_along(tokens, tmp_path, processes):
    """As `accelerate launch` itself starts them; then the same command goes on."""
    command = [*launch_command(processes), SCRIPTS / "train_autonat.py", *autonat_args(tokens, tmp_path, 10**6),
               "--train_batch_size", 8, "--checkpointing_steps", 1, "--checkpoints_total_limit", 2,
               "--resume_from_checkpoint", "latest"]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def workers():
        lines = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
        return [int(path.parent.name) for path, line in lines.items() if str(tmp_path).encode() in line]

    try:
        until = time.monotonic() + 120
        while not checkpoint_folders(tmp_path) and time.monotonic() < until:
            time.sleep(0.1)
        assert len(workers()) == processes + 1
        launcher.kill()
        launcher.wait()
        until = time.monotonic() + 20
        while workers() and time.monotonic() < until:
            time.sleep(0.1)
        assert not workers()
    finally:
        launcher.kill()
        for worker in workers():
            os.kill(worker, signal.SIGKILL)
    step = checkpoint_folders(tmp_path)[-1].name.split("-")[1]
    output = launch("train_autonat.py", *autonat_args(tokens, tmp_path, int(step) + 1, "--train_batch_size", 8,
                    "--resume_from_checkpoint", "latest"), processes=processes)  # fmt: skip
    assert f"checkpoint-{step}" in output and not list(tmp_path.glob("partial-checkpoint-*"))


@pytest.mark.parametrize(
    "args, message",
    [
        (["--mask_alpha", "-1"], "alpha = -1.0"),
        (["--mask_distribution", "fixed", "--mask_ratio", "1.5"], "ratio = 1.5"),
        (["--pretrained_model_name_or_path", SHIPPED], "the pretrained transformer has codebook_size = "),
        (["--transformer", "enat", "--use_ema", "--hidden_size", "30"], "multiple of `num_attention_heads` (4)"),
        (["--num_inference_steps", "0"], "num_inference_steps = 0"),
        (["--train_batch_size", "1000"], "do not fill one batch of 1000"),
    ],
)
def test_autonat_refuses_bad_arguments_early(tokens, tmp_path, args, message):
    command = [sys.executable, SCRIPTS / "train_autonat.py", *autonat_args(tokens, tmp_path, 1), *args]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode != 0 and message in result.stderr


def test_vqgan_trains_checkpoints_and_resumes(idx_folder, tmp_path):
    args = ["--train_data_dir", idx_folder, "--resolution", 28, "--num_channels", 1, "--block_out_channels", 8, 8, 8,
            "--layers_per_block", 1, "--codebook_size", 16, "--codebook_dim", 4, "--norm_num_groups", 4, "--learning_rate",
            "2e-3", "--lr_warmup_steps", 1, "--adversarial_start", 3, "--discriminator_hidden_size", 8, "--quantization_start", 0.2,
            "--revive_steps", 2, "--train_batch_size", 16, "--checkpointing_steps", 3, "--logging_steps", 1, "--validation_steps", 3,
            "--max_train_steps", 6, "--output_dir"]  # fmt: skip
    launch("train_vqgan.py", *args, tmp_path / "unbroken")
    assert [folder.name for folder in checkpoint_folders(tmp_path / "unbroken")] == ["checkpoint-3", "checkpoint-6"]
    # Between two revivals: the counts of the codes' use have to be resumed too.
    shutil.copytree(tmp_path / "unbroken" / "checkpoint-3", tmp_path / "checkpoint-3")
    shutil.copy(tmp_path / "unbroken" / "history.jsonl", tmp_path)
    launch("train_vqgan.py", *args, tmp_path, "--resume_from_checkpoint", "latest", "--checkpoints_total_limit", 1)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["checkpoint-6"]
    name = Path("vqvae", "diffusion_pytorch_model.safetensors")
    resumed, whole = load_file(tmp_path / name), load_file(tmp_path / "unbroken" / name)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    history = History.read(tmp_path / "history.jsonl")
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert "codes_used" not in history[0] and history[1]["quantization"] > 0
    assert "adversarial" not in history[2] and "adversarial" in history[3] and history[-1]["codes_used"] > 1
    assert (tmp_path / "samples" / "step-000006.png").exists()
    vqvae = VQModel.from_pretrained(tmp_path / "vqvae")
    assert vqvae.config.lookup_from_codebook and json.loads((tmp_path / "vqvae" / "config.json").read_text())


def test_vqgan_passes_over_images_that_cannot_be_read(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    write_bad_files(tmp_path / "images" / "class-0")
    args = ["--train_data_dir", tmp_path / "images", "--resolution", 28, "--num_channels", 1, "--block_out_channels", 8, 8,
            "--layers_per_block", 1, "--codebook_size", 16, "--codebook_dim", 4, "--norm_num_groups", 4, "--lr_warmup_steps", 0,
            "--adversarial_weight", 0, "--train_batch_size", 70, "--max_train_steps", 1, "--output_dir", tmp_path / "out"]  # fmt: skip
    command = [sys.executable, SCRIPTS / "train_vqgan.py", *args]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and "avif.png cannot be read" in result.stderr, result.stderr[-3000:]
    assert (tmp_path / "out" / "vqvae" / "config.json").exists()


def test_a_grown_codebook_keeps_the_codes_it_has():
    grow_codebook = runpy.run_path(str(SCRIPTS / "train_vqgan.py"))["grow_codebook"]
    model, images = tiny_vqvae(), torch.rand(2, 1, 28, 28)
    grown = grow_codebook(model, 24)
    assert grown.config.num_vq_embeddings == 24 and len(grown.quantize.embedding.weight) == 24
    assert torch.equal(grown.quantize.embedding.weight[:16], model.quantize.embedding.weight)
    with torch.no_grad():
        assert torch.equal(grown.encode(images).latents, model.encode(images).latents)
    with pytest.raises(ValueError, match="codebook_size 8 is less than the 16"):
        grow_codebook(model, 8)
