"""The scripts in this process, which is fast: wrong options, folders and weights are one line; a full disk; a resume."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import VQModel
from PIL import Image
from safetensors.torch import load_file

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.cli import main
from diffusers_autonat.training.checkpoints import checkpoint_folders
from diffusers_autonat.training.tokens import load_token_set
from tests.conftest import tiny_vqvae


SCRIPTS = Path(__file__).parents[2] / "training"


def run(script, args, monkeypatch, capsys, said=None):
    """A script in this process, as its command line runs it; returns its status and the lines of its errors; `said` is filled
    with what it prints, and what it says on stderr."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *map(str, args)])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("DIFFUSERS_AUTONAT_TRACEBACK", raising=False)
    capsys.readouterr()
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    if said is not None:
        said += [out, err]
    return status, [line for line in err.splitlines() if line.startswith(script)]


def test_own_images_with_texts_as_labels_go_all_the_way(fashion_mnist, tmp_path, monkeypatch, capsys):
    """metadata.csv with words and numbers that are none of 0 to K - 1, from the tokenizer to a pipeline that knows the names."""
    data = tmp_path / "own"
    data.mkdir()
    lines = ["file_name,kind,year"]
    for i, image in enumerate(fashion_mnist[0][:32]):
        Image.fromarray(image).save(data / f"{i:02d}.png")
        lines.append(f"{i:02d}.png,{'Flags' if i % 2 else 'Animals'},{1990 + 10 * (i % 2)}")
    (data / "metadata.csv").write_text("\n".join(lines))
    words = [*vqgan_args(data, tmp_path / "vqgan"), "--label_column", "kind", "--lr_warmup_steps", 4]
    assert run("train_vqgan.py", words, monkeypatch, capsys, whole := [])[0] == 0
    folder = tmp_path / "vqgan" / "vqvae"
    assert (
        f"saved to {folder}: tokenize_images.py and train_autonat.py take it" in whole[0]
        and f'VQModel.from_pretrained("{folder}")' in whole[0]
    )
    assert "warning: --lr_warmup_steps 4 do not end within the 4 steps" in whole[1]
    for column, names in (("kind", ["Animals", "Flags"]), ("year", ["1990", "2000"])):
        out = tmp_path / column
        words = ["--train_data_dir", data, "--label_column", column, "--vqvae", folder, "--resolution", 28, "--output_dir", out,
                 "--hidden_size", 32, "--num_layers", 3, "--num_attention_heads", 4, "--max_train_steps", 2, "--train_batch_size",
                 16, "--lr_warmup_steps", 0]  # fmt: skip
        assert run("train_autonat.py", words, monkeypatch, capsys, whole := [])[0] == 0
        assert f'AutoNATPipeline.from_pretrained("{out / "pipeline"}")' in whole[0]
        pipe = AutoNATPipeline.from_pretrained(out / "pipeline")
        assert pipe.id2label == dict(enumerate(names)) and pipe.get_label_ids(names[1]) == [1]


def test_commands_name_commands_and_their_cards_work_where_they_were_called(idx_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def called(*words):
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        main([str(word) for word in words])
        return "".join(capsys.readouterr())

    def run_card(folder):
        text, scope = Path(folder, "README.md").read_text(), {}
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(block, scope)
        return text, scope

    said = called("train", "vqgan", *vqgan_args(idx_folder, "outputs/vqgan"))
    users = (
        "diffusers-autonat train tokenize and diffusers-autonat train autonat take it as --vqvae outputs/vqgan/vqvae"
    )
    assert users in said
    text, scope = run_card("outputs/vqgan/vqvae")
    assert type(scope["vqvae"]) is VQModel and "`diffusers-autonat train vqgan --train_data_dir " in text
    images = ["--train_data_dir", idx_folder, "--vqvae", "outputs/vqgan/vqvae", "--resolution", 28]
    said = called("train", "tokenize", *images, "--output_dir", "outputs/tokens")
    assert "diffusers-autonat train autonat takes them as --train_data_dir outputs/tokens" in said
    # A folder of one level: with `pipeline` it looks like an id on the Hub.
    tokens = ["--train_data_dir", "outputs/tokens", "--vqvae", "outputs/vqgan/vqvae", "--output_dir", "autonat"]
    sizes = [
        "--hidden_size",
        32,
        "--num_layers",
        3,
        "--num_attention_heads",
        4,
        "--max_train_steps",
        2,
        "--train_batch_size",
        16,
    ]
    called("train", "autonat", *tokens, *sizes, "--lr_warmup_steps", 0)
    text, scope = run_card("autonat/pipeline")
    assert type(scope["pipe"]) is AutoNATPipeline and scope["image"].size == (28, 28)
    assert text.count('"./autonat/pipeline"') == 3 and "\n# autonat\n" in text
    called("train", "classifier", *classifier_args(idx_folder, "outputs/judge"))
    text, scope = run_card("outputs/judge")
    assert scope["model"].config.num_labels == 10 and "--feature-extractor ./outputs/judge " in text


def test_a_flat_folder_is_one_class_and_says_so(fashion_mnist, tmp_path, monkeypatch, capsys):
    (tmp_path / "flat").mkdir()
    for i, image in enumerate(fashion_mnist[0][:32]):
        Image.fromarray(image).save(tmp_path / "flat" / f"{i:02d}.png")
    words = vqgan_args(tmp_path / "flat", tmp_path / "vqgan")
    assert run("train_vqgan.py", words, monkeypatch, capsys, whole := [])[0] == 0
    assert "has no labels: all its images are of one class" in whole[1]
    words = ["--train_data_dir", tmp_path / "flat", "--vqvae", tmp_path / "vqgan" / "vqvae", "--resolution", 28,
             "--output_dir", tmp_path / "tokens"]  # fmt: skip
    assert run("tokenize_images.py", words, monkeypatch, capsys)[0] == 0
    assert load_token_set(tmp_path / "tokens")[1].label_names is None


@pytest.fixture(scope="module")
def tokens(idx_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tiny_vqvae().save_pretrained(folder / "vqvae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tokenize_images.py", "--train_data_dir", str(idx_folder), "--vqvae",
                      str(folder / "vqvae"), "--resolution", "28", "--output_dir", str(folder / "tokens")])  # fmt: skip
        runpy.run_path(str(SCRIPTS / "tokenize_images.py"), run_name="__main__")
    return folder


def autonat_args(tokens, output):
    return ["--train_data_dir", tokens / "tokens", "--vqvae", tokens / "vqvae", "--output_dir", output, "--hidden_size", 32,
            "--num_layers", 3, "--num_attention_heads", 4, "--max_train_steps", 2, "--train_batch_size", 16,
            "--logging_steps", 1, "--lr_warmup_steps", 0]  # fmt: skip


def vqgan_args(data, output):
    return ["--train_data_dir", data, "--resolution", 28, "--num_channels", 1, "--block_out_channels", 8, 8, 8,
            "--layers_per_block", 1, "--codebook_size", 16, "--codebook_dim", 4, "--norm_num_groups", 4,
            "--adversarial_start", 3, "--discriminator_hidden_size", 8, "--train_batch_size", 16, "--max_train_steps", 4,
            "--checkpointing_steps", 1, "--logging_steps", 1, "--lr_warmup_steps", 0, "--output_dir", output]  # fmt: skip


def classifier_args(data, output):
    return ["--train_data_dir", data, "--num_train_epochs", 1, "--train_batch_size", 32, "--hidden_sizes", 32, 32, "--depths",
            1, 1, "--input_size", 28, "--output_dir", output]  # fmt: skip


NUMBERS = [
    ("--checkpointing_steps", "0"),
    ("--logging_steps", "0"),
    ("--validation_steps", "0"),
    ("--max_train_steps", "-1"),
    ("--max_train_steps", "0"),
    ("--num_train_epochs", "0"),
    ("--checkpoints_total_limit", "0"),
    ("--train_batch_size", "0"),
    ("--train_batch_size", "1" * 400),
    ("--learning_rate", "nan"),
    ("--learning_rate", "-1e-3"),
    ("--learning_rate", "inf"),
    ("--adam_beta1", "1.5"),
    ("--max_grad_norm", "nan"),
    ("--seed", "-1"),
    ("--seed", str(2**32)),
    ("--lr_warmup_steps", "-1"),
    ("--lr_scheduler", "piecewise_constant"),
    ("--dataloader_num_workers", "-1"),
    ("--max_train_samples", "0"),
]
AUTONAT_NUMBERS = [
    ("--ema_decay", "nan"),
    ("--ema_decay", "1.01"),
    ("--hidden_size", str(10**9)),
    ("--num_layers", str(10**9)),
    ("--num_attention_heads", "0"),
    ("--gradient_accumulation_steps", "0"),
    ("--dropout", "2"),
    ("--reuse_prob", "-0.5"),
    ("--num_inference_steps", str(10**9)),
    ("--guidance_scale", "1e999"),
]
VQGAN_NUMBERS = [
    ("--block_out_channels", str(10**9)),
    ("--codebook_size", str(10**9)),
    ("--discriminator_learning_rate", "nan"),
    ("--revive_until", "2"),
    ("--revive_steps", "-1"),
]
CLASSIFIER_NUMBERS = [
    ("--num_train_epochs", "-1"),
    ("--learning_rate", "nan"),
    ("--hidden_sizes", str(10**9)),
    ("--seed", "x"),
]


@pytest.mark.parametrize(
    "script, option, value",
    [("train_autonat.py", *one) for one in NUMBERS + AUTONAT_NUMBERS]
    + [("train_vqgan.py", *one) for one in NUMBERS + VQGAN_NUMBERS]
    + [("train_classifier.py", *one) for one in CLASSIFIER_NUMBERS],
)
def test_unlawful_numbers_are_refused_by_name(script, option, value, tmp_path, monkeypatch, capsys):
    # Nothing else is named rightly: the number is looked at first.
    args = ["--train_data_dir", tmp_path / "none", "--output_dir", tmp_path / "out", f"{option}={value}"]
    status, lines = run(script, args, monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and f"argument {option}: " in lines[0] and "Traceback" not in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--hidden_size", 65536, "--num_layers", 99], "parameters, which take .* GiB with gradients and optimiser"),
        (["--vqvae", "/nowhere"], "/nowhere"),
        (["--vqvae", "no/such-model"], "no/such-model"),
        (["--pretrained_model_name_or_path", "/nowhere"], "/nowhere"),
        (["--train_data_dir", "/nowhere"], "/nowhere"),
        (["--output_dir", "/proc/none"], "/proc/none"),
        (["--output_dir", "/dev/null"], "/dev/null"),
        (["--resume_from_checkpoint", "/nowhere"], "is not a folder named checkpoint-<step>"),
        (["--hub_model_id", "not a name!"], "Repo id must"),
        (["--report_to", "nothing"], "nothing"),
        (["--mask_alpha", "-1"], "alpha = -1.0"),
        (["--transformer", "enat"], "add --use_ema"),
        (["--adam_beta2", "1"], "(?i)beta"),
        (["--num_attention_heads", "5"], "num_attention_heads"),
        (["--train_batch_size", 10**6], "do not fill one batch of 1000000"),
    ],
)
def test_autonat_says_in_one_line_what_is_wrong(tokens, tmp_path, args, message, monkeypatch, capsys):
    status, lines = run("train_autonat.py", [*autonat_args(tokens, tmp_path / "out"), *args], monkeypatch, capsys)
    assert status == 2 and len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out" / "pipeline").exists() and not checkpoint_folders(tmp_path / "out")


@pytest.mark.parametrize(
    "args, message",
    [
        (["--block_out_channels", 65536, 65536, 65536, "--norm_num_groups", 32], "parameters, which take .* GiB"),
        (["--pretrained_model_name_or_path", "/nowhere"], "/nowhere"),
        (["--train_data_dir", "/nowhere"], "--train_data_dir /nowhere is not a folder"),
        (["--output_dir", "/proc/none"], "/proc/none"),
        (["--perceptual_model", "/nowhere"], "/nowhere"),
        (["--resolution", 30], "--resolution 30 cannot be halved 2 times, .*: take 28 or 32"),
        (["--resolution", 4], "do not fit the networks"),
        (["--norm_num_groups", 3], "num_groups|divisible"),
        (["--train_batch_size", 65], "64 images do not fill one batch of 65"),
    ],
)
def test_vqgan_says_in_one_line_what_is_wrong(idx_folder, tmp_path, args, message, monkeypatch, capsys):
    status, lines = run("train_vqgan.py", [*vqgan_args(idx_folder, tmp_path / "out"), *args], monkeypatch, capsys)
    assert status == 2 and len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out" / "vqvae").exists() and not checkpoint_folders(tmp_path / "out")


@pytest.mark.parametrize(
    "args, message",
    [
        (["--label_column", "none"], "a classifier learns labels"),
        (["--hidden_sizes", 32, "--depths", 1, 1], "--hidden_sizes names 1 stages and --depths 2"),
        (["--hidden_sizes", 65536, 65536, "--depths", 20, 20], "parameters, which take .* GiB"),
        (["--train_data_dir", "/nowhere"], "--train_data_dir /nowhere is not a folder"),
        (["--output_dir", "/proc/none"], "/proc/none"),
        (["--train_batch_size", 65], "64 images do not fill one batch of 65"),
    ],
)
def test_classifier_says_in_one_line_what_is_wrong(idx_folder, tmp_path, args, message, monkeypatch, capsys):
    status, lines = run(
        "train_classifier.py", [*classifier_args(idx_folder, tmp_path / "out"), *args], monkeypatch, capsys
    )
    assert status == 2 and len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out" / "config.json").exists()


def test_classifier_of_own_colour_images_needs_no_sizes_and_no_test_split(
    fashion_mnist, tmp_path, monkeypatch, capsys
):
    for i, (image, label) in enumerate(zip(*fashion_mnist)):
        path = tmp_path / "own" / ("left", "right")[label % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.merge("RGB", [Image.fromarray(image)] * 3).save(path)
    args = ["--train_data_dir", tmp_path / "own", "--resolution", 56, "--num_train_epochs", 1, "--train_batch_size", 16,
            "--hidden_sizes", 32, "--depths", 1, "--output_dir", tmp_path / "judge"]  # fmt: skip
    assert run("train_classifier.py", args, monkeypatch, capsys, said := []) == (0, [])
    assert re.search(r"5[78] images to train on, [67] \(10% of train, held out\) to test on, 2 classes", said[0])
    config, processor, result = (
        json.loads((tmp_path / "judge" / f"{name}.json").read_text())
        for name in ("config", "preprocessor_config", "training")
    )
    assert config["num_channels"] == 3 and config["id2label"] == {"0": "left", "1": "right"}
    assert processor["size"] == {"height": 56, "width": 56} and len(processor["image_mean"]) == 3
    ((what, tested),) = result["tested_on"].items()
    assert what == "10% of train, held out" and result["train_images"] + tested["images"] == 64
    assert tested["accuracy"] == result["test_accuracy"]
    card = (tmp_path / "judge" / "README.md").read_text()
    assert f"| 10% of train, held out | {tested['images']} | {tested['accuracy']:.2%} |" in card
    assert "0 left; 1 right." in card and "library_name: transformers" in card and "license: unknown" in card


def test_vqgan_of_the_papers_asks_how_long(idx_folder, tmp_path, monkeypatch, capsys):
    args = ["--preset", "paper", "--train_data_dir", idx_folder, "--output_dir", tmp_path / "out"]
    status, lines = run("train_vqgan.py", args, monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and "--preset paper does not say how long to train" in lines[0]
    assert not (tmp_path / "out").exists()


def test_vqgan_saves_no_weights_that_are_not_finite(idx_folder, tmp_path, monkeypatch, capsys):
    args, said = [*vqgan_args(idx_folder, tmp_path), "--adversarial_weight", 0], []
    status, lines = run(
        "train_vqgan.py", [*args, "--learning_rate", "1e12", "--logging_steps", 100], monkeypatch, capsys, said
    )
    assert "warning: without effect: --adversarial_start, --discriminator_hidden_size, because" in said[1]
    assert status == 2 and len(lines) == 1 and "at step " in lines[0] and "lower --learning_rate" in lines[0]
    assert not (tmp_path / "vqvae").exists()
    for folder in checkpoint_folders(tmp_path):
        assert all(
            tensor.isfinite().all() for file in folder.glob("*.safetensors") for tensor in load_file(file).values()
        )
    for options in (["--logging_steps", 1], ["--logging_steps", 100, "--revive_steps", 2, "--revive_until", 1]):
        shutil.rmtree(tmp_path)
        options += ["--learning_rate", "1e12", "--checkpointing_steps", 100]
        status, lines = run("train_vqgan.py", [*args, *options], monkeypatch, capsys)
        assert status == 2 and len(lines) == 1 and "loss is " in lines[0] and "at step " in lines[0]
        assert not (tmp_path / "vqvae").exists()


def test_autonat_saves_no_weights_that_are_not_finite(tokens, tmp_path, monkeypatch, capsys):
    args = [*autonat_args(tokens, tmp_path), "--learning_rate", "1e20", "--max_train_steps", 3]
    status, lines = run("train_autonat.py", args, monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and "at step " in lines[0]
    assert not (tmp_path / "pipeline").exists() and not checkpoint_folders(tmp_path)


def test_a_damaged_file_of_weights_is_one_line(tokens, tmp_path, monkeypatch, capsys):
    shutil.copytree(tokens / "vqvae", tmp_path / "vqvae")
    os.truncate(tmp_path / "vqvae" / "diffusion_pytorch_model.safetensors", 100)
    args = [*autonat_args(tokens, tmp_path / "out"), "--vqvae", tmp_path / "vqvae"]
    status, lines = run("train_autonat.py", args, monkeypatch, capsys)
    assert status == 2 and len(lines) == 1


def test_a_new_training_does_not_mix_with_an_earlier_one(tokens, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoint-7").mkdir()
    for script, args in (
        ("train_autonat.py", autonat_args(tokens, tmp_path)),
        ("train_vqgan.py", vqgan_args("/x", tmp_path)),
    ):
        status, lines = run(script, args, monkeypatch, capsys)
        assert status == 2 and len(lines) == 1 and "add --resume_from_checkpoint latest" in lines[0]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.name == "posix" and os.geteuid() == 0
    mounted = (
        mounted
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("no tmpfs can be mounted")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk, leave):
    (disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))


def test_autonat_on_a_full_disk_goes_on_where_it_was(tokens, small_disk, monkeypatch, capsys):
    args = [*autonat_args(tokens, small_disk), "--resume_from_checkpoint", "latest", "--checkpoints_total_limit", 1]
    assert run("train_autonat.py", [*args, "--max_train_steps", 1], monkeypatch, capsys) == (0, [])
    name = small_disk / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    before = name.read_bytes()
    fill(small_disk, 60_000)  # neither a checkpoint nor a pipeline
    status, lines = run("train_autonat.py", args, monkeypatch, capsys)
    assert status == 2 and len(lines) == 1 and str(small_disk) in lines[0] and "free some space" in lines[0]
    assert name.read_bytes() == before and not list(small_disk.glob("partial*"))
    assert [folder.name for folder in checkpoint_folders(small_disk)] == ["checkpoint-1"]
    (small_disk / "ballast").unlink()
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    assert [folder.name for folder in checkpoint_folders(small_disk)] == [
        "checkpoint-2"
    ] and name.read_bytes() != before


def test_vqgan_and_classifier_on_a_full_disk_keep_what_was_there(idx_folder, small_disk, monkeypatch, capsys):
    fill(small_disk, 20_000)
    for script, args in (
        ("train_vqgan.py", [*vqgan_args(idx_folder, small_disk / "a"), "--max_train_steps", 1]),
        ("train_classifier.py", classifier_args(idx_folder, small_disk / "b")),
    ):
        status, lines = run(script, args, monkeypatch, capsys)
        assert status == 2 and len(lines) == 1 and str(small_disk) in lines[0] and "free some space" in lines[0]
        assert not list(small_disk.rglob("*.safetensors"))


def test_a_read_only_disk_is_refused_at_once(tokens, idx_folder, small_disk, monkeypatch, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for script, args in (
        ("train_autonat.py", autonat_args(tokens, small_disk / "a")),
        ("train_vqgan.py", vqgan_args("/nowhere", small_disk)),
        ("train_classifier.py", classifier_args("/nowhere", small_disk / "b")),
    ):
        status, lines = run(script, args, monkeypatch, capsys)
        assert status == 2 and len(lines) == 1 and f"Read-only file system: '{small_disk}" in lines[0]
        assert lines[0].endswith("name a folder that can be written")


def test_nothing_saved_names_this_machines_folders(tokens, idx_folder, tmp_path, monkeypatch, capsys):
    args = [*autonat_args(tokens, tmp_path / "autonat"), "--dataset_name", "/home/me/data", "--license", "mit"]
    monkeypatch.chdir(tmp_path)
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    args = ["--pretrained_model_name_or_path", tokens / "vqvae", "--train_data_dir", idx_folder, "--resolution", 28,
            "--train_batch_size", 16, "--max_train_steps", 1, "--output_dir", tmp_path / "vqgan"]  # fmt: skip
    assert run("train_vqgan.py", args, monkeypatch, capsys) == (0, [])
    assert run("train_classifier.py", classifier_args(idx_folder, tmp_path / "judge"), monkeypatch, capsys) == (0, [])
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".py")]
    assert len(files) > 10
    for path in files:
        for line in path.read_text().splitlines():
            assert not [root for root in ("/tmp/", "/root/", "/home/", str(tmp_path)) if root in line], (
                f"{path}: {line}"
            )
    assert (
        json.loads((tmp_path / "autonat" / "pipeline" / "vqvae" / "config.json").read_text())["_name_or_path"]
        == "vqvae"
    )


def test_accumulated_gradients_cross_epochs_and_a_resume(tokens, tmp_path, monkeypatch, capsys):
    """An epoch has 8 batches, a step 3: step 3 takes two of the first epoch and one of the next."""
    args = [*autonat_args(tokens, tmp_path / "a"), "--gradient_accumulation_steps", 3, "--use_ema"]
    assert run(
        "train_autonat.py", [*args, "--max_train_steps", 5, "--checkpointing_steps", 3], monkeypatch, capsys
    ) == (0, [])
    shutil.copytree(tmp_path / "a" / "checkpoint-3", tmp_path / "b" / "checkpoint-3")
    args = [*args, "--output_dir", tmp_path / "b", "--resume_from_checkpoint", "latest", "--max_train_steps", 5]
    assert run("train_autonat.py", args, monkeypatch, capsys) == (0, [])
    for name in ("transformer", "optimizer", "ema"):
        one, other = (load_file(tmp_path / run / "checkpoint-5" / f"{name}.safetensors") for run in "ab")
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert one["shadow_params.0"].isfinite().all()
    optimizer = load_file(tmp_path / "b" / "checkpoint-5" / "optimizer.safetensors")
    assert {float(step) for key, step in optimizer.items() if key.endswith(".step")} == {5.0}
