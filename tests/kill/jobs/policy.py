"""The training of a policy by both rewards, on one process and on two. Bit-equal policy, curves and validations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from job import ROOT, forked, run_script
from jobs.training import Training
from PIL import Image

# What the script imports, before the forks.
from diffusers_autonat.training import model_card, policy_gradient, reward_guard, rewards  # noqa: F401
from diffusers_autonat.training.rewards import discriminator  # noqa: F401
from tests.conftest import LABELS, load_fashion_mnist, save_tiny_classifier, save_tiny_study


POLICY = ["--num_inference_steps", 4, "--policy_hidden_size", 8, "--policy_conv_channels", 4, "--policy_mlp_channels", 8, 8,
          "--images_per_update", 16, "--rollout_batch_size", 16, "--train_batch_size", 8, "--ppo_epochs", 2,
          "--learning_rate", "1e-3", "--max_train_steps", 5, "--num_validation_images", 12, "--validation_steps", 2,
          "--min_class_consistency", 0, "--checkpointing_steps", 1, "--checkpoints_total_limit", 3,
          "--reward", "influence", "discriminator", "--num_real_images", 24, "--discriminator_batch_size", 8]  # fmt: skip


class PolicyTraining(Training):
    def prepare(self, folder: Path) -> None:
        images, labels = load_fashion_mnist()
        for number, (image, label) in enumerate(zip(images, labels)):
            if label in LABELS:  # the pipeline's classes
                file = folder / "real" / f"class-{label}" / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
        forked(lambda: (save_tiny_study(folder, images), save_tiny_classifier(folder / "second", seed=1)))

    def run(self, folder: Path, output: Path) -> None:
        run_script(ROOT / "training" / self.script, "--pretrained_model_name_or_path", folder / "pipeline",
                   "--reference", folder / "reference.npz", "--feature_extractor", folder / "judge",
                   "--real_images", folder / "real", "--second_feature_extractor", folder / "second",
                   "--second_reference", folder / "real", *self.args, "--output_dir", output,
                   "--resume_from_checkpoint", "latest")  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        rows = [json.loads(line) for line in (output / "validation.jsonl").read_text().splitlines()]
        return super().result(output) | {"validations": rows}


JOBS = [
    PolicyTraining("policy", "train_policy.py", POLICY, "pipeline"),
    PolicyTraining("policy-2-processes", "train_policy.py", POLICY, "pipeline", processes=2),
]
