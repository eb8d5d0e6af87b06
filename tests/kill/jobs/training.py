"""The trainings: the U-ViT on one process, ENAT on two, on captions, of an adapter, the tokenizer, a judge of captions. Bit-equal weights, curves and pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

# What the scripts import, before the forks.
import accelerate.utils  # noqa: F401
import datasets  # noqa: F401
import peft  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
from job import ROOT, Job, files, forked, run_script

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler, UViTTransformer2DModel
from diffusers_autonat.training import lora, model_card, text_condition, tokenizing, vqgan  # noqa: F401
from diffusers_autonat.training.checkpoints import checkpoint_folders
from tests.conftest import load_fashion_mnist, tiny_vqvae, write_idx
from tests.training.conftest import save_captioned


def write_images(folder: Path) -> None:
    """64 real images as IDX files, training and test split."""
    images, labels = load_fashion_mnist()
    folder.mkdir()
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)


class Training(Job):
    unwatched = ("logs",)  # of TensorBoard, whose writes are most of all

    def __init__(self, variant: str, script: str, args: list[Any], saved: str, processes: int = 1):
        self.name, self.script, self.args, self.saved = f"training/{variant}", script, args, saved
        self.processes = processes

    def prepare(self, folder: Path) -> None:
        write_images(folder / "images")
        tiny_vqvae().save_pretrained(folder / "vqvae")
        if self.script == "train_autonat.py":
            forked(lambda: run_script(ROOT / "training" / "tokenize_images.py", "--train_data_dir", folder / "images",
                   "--vqvae", folder / "vqvae", "--resolution", 28, "--output_dir", folder / "tokens"))  # fmt: skip

    def run(self, folder: Path, output: Path) -> None:
        data = ["--train_data_dir", folder / "images"]
        if self.script == "train_autonat.py":
            data = ["--train_data_dir", folder / "tokens", "--vqvae", folder / "vqvae"]
        run_script(ROOT / "training" / self.script, *data, *self.args, "--output_dir", output,
                   "--resume_from_checkpoint", "latest")  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        # The card tells speed and time; checkpoints and logs may be more after a kill.
        result: dict[str, Any] = dict(
            files(output / self.saved, lambda path: path.suffix in (".safetensors", ".json"))
        )
        result |= files(output / "samples", lambda path: path.suffix == ".png")
        last = checkpoint_folders(output)[-1]
        result |= {f"last checkpoint {name}": data for name, data in files(last).items()}
        rows = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
        timing = ("seconds", "images_per_second", "rollout_seconds", "update_seconds")
        result["history"] = [{key: value for key, value in row.items() if key not in timing} for row in rows]
        result["leftovers"] = [path.name for path in output.iterdir() if path.name.startswith("partial-checkpoint")]
        return result

    def damage(self, output: Path, random: Random) -> str | None:
        history, folders = output / "history.jsonl", checkpoint_folders(output)
        if len(folders) > 1 and random.random() < 0.7:
            path = random.choice(sorted(folders[-1].iterdir()))
            size = path.stat().st_size
            os.truncate(path, random.randrange(size) if size else 0)
            return f"{path.relative_to(output)} cut"
        if history.exists():
            with history.open("a") as file:
                file.write('{"step": 99, "lo')
            return "history.jsonl torn"
        return None


class TextTraining(Training):
    """From captioned images: tokens and text states are made in the output first."""

    def prepare(self, folder: Path) -> None:
        forked(lambda: save_captioned(folder, *load_fashion_mnist()))

    def run(self, folder: Path, output: Path) -> None:
        run_script(ROOT / "training" / self.script, "--train_data_dir", folder / "images", "--resolution", 28,
                   "--label_column", "none", "--caption_column", "captions", "--vqvae", folder / "vqvae",
                   "--text_encoder", folder / "encoder", "--context_length", 8, *self.args, "--output_dir", output,
                   "--resume_from_checkpoint", "latest")  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        return super().result(output) | files(output / "tokens")


class JudgeTraining(TextTraining):
    """A judge of captions."""

    def run(self, folder: Path, output: Path) -> None:
        run_script(ROOT / "training" / self.script, "--train_data_dir", folder / "images", "--text_encoder", folder / "encoder",
                   "--caption_column", "captions", *self.args, "--output_dir", output,
                   "--resume_from_checkpoint", "latest")  # fmt: skip


class LoRATraining(Training):
    """An adapter to a pipeline."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        transformer = UViTTransformer2DModel(
            sample_size=7, codebook_size=16, hidden_size=32, num_layers=3, num_attention_heads=4, num_classes=10
        )
        pipeline = AutoNATPipeline(tiny_vqvae(), transformer, NATScheduler(16, [GenerationStrategy.cosine(4)]))
        forked(lambda: pipeline.save_pretrained(folder / "pipeline"))

    def run(self, folder: Path, output: Path) -> None:
        run_script(ROOT / "training" / self.script, "--train_data_dir", folder / "tokens", "--rank", 2,
                   "--pretrained_model_name_or_path", folder / "pipeline", *self.args, "--output_dir", output,
                   "--resume_from_checkpoint", "latest")  # fmt: skip


COMMON = ["--train_batch_size", 16, "--checkpointing_steps", 2, "--validation_steps", 3, "--logging_steps", 1]
AUTONAT = [*COMMON, "--hidden_size", 32, "--num_attention_heads", 4, "--use_ema", "--lr_warmup_steps", 2, "--learning_rate",
           "3e-3", "--num_inference_steps", 3, "--max_train_steps", 10]  # fmt: skip
VQGAN = [*COMMON, "--resolution", 28, "--num_channels", 1, "--block_out_channels", 8, 8, 8, "--layers_per_block", 1,
         "--codebook_size", 16, "--codebook_dim", 4, "--norm_num_groups", 4, "--learning_rate", "2e-3", "--lr_warmup_steps", 1,
         "--quantization_start", 0.4, "--adversarial_start", 4, "--discriminator_hidden_size", 8, "--revive_steps", 2,
         "--max_train_steps", 8]  # fmt: skip
JUDGE = ["--resolution", 28, "--hidden_sizes", 8, 16, "--depths", 1, 1, "--projection_dim", 8, "--train_batch_size", 16,
         "--num_train_epochs", 3, "--checkpointing_steps", 2, "--logging_steps", 1]  # fmt: skip
ENAT = ["--transformer", "enat", "--num_layers", 2, "--num_decoder_layers", 1, "--train_batch_size", 8]

JOBS = [
    Training("uvit", "train_autonat.py", [*AUTONAT, "--num_layers", 3, "--checkpoints_total_limit", 3], "pipeline"),
    Training("enat-2-processes", "train_autonat.py", [*AUTONAT, *ENAT], "pipeline", processes=2),
    TextTraining("text", "train_autonat.py", [*AUTONAT, "--num_layers", 3], "pipeline"),
    LoRATraining("lora", "train_autonat.py", [*COMMON, "--max_train_steps", 8], "lora"),
    Training("vqgan", "train_vqgan.py", VQGAN, "vqvae"),
    JudgeTraining("text-judge", "train_text_judge.py", JUDGE, "judge"),
]
