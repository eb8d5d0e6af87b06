"""Settings of the trainings by the size of the data, as `--preset` names them; what is given beside it goes before.

`tiny` is for hundreds to a few thousand images of up to 64 pixels: the sizes of the shipped Fashion-MNIST models, trained for a
tenth as long; `small` for tens of thousands of up to 128 pixels; `paper` is the papers' own training on ImageNet at 256.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


# The codes join when there are latents to tell apart, else they keep one or two of their dimensions, and not the colours. A
# discriminator joins when the cosine of the learning rate has come down to about 1e-4: against a generator that moves faster it
# never learns to tell anything apart, and its pull is noise. In 4,000 steps it does not learn it at all: `tiny` has none.
# docs/training_runs.md shows both.
VQGAN_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "block_out_channels": [32, 64, 64], "layers_per_block": 1, "norm_num_groups": 8, "codebook_size": 256,
        "codebook_dim": 16, "l2_weight": 1.0, "quantization_start": 0.125, "revive_steps": 100, "adversarial_weight": 0.0,
        "adversarial_start": 3000, "discriminator_hidden_size": 32, "discriminator_learning_rate": 2e-4,
        "learning_rate": 6e-4, "lr_warmup_steps": 50, "adam_beta1": 0.8, "adam_beta2": 0.95, "train_batch_size": 32,
        "max_train_steps": 4000, "validation_steps": 250, "checkpointing_steps": 250,
    },
    "small": {
        "block_out_channels": [64, 128, 128, 256], "norm_num_groups": 32, "codebook_size": 512, "codebook_dim": 64,
        "quantization_start": 0.1, "adversarial_start": 30_000, "discriminator_learning_rate": 1e-4, "learning_rate": 4e-4,
        "lr_warmup_steps": 500, "train_batch_size": 64, "max_train_steps": 40_000, "validation_steps": 1000,
        "checkpointing_steps": 1000,
    },
    # MaskGIT's tokenizer, which the released weights use. How long it was trained is not told.
    "paper": {
        "block_out_channels": [128, 128, 256, 256, 512], "layers_per_block": 2, "norm_num_groups": 32, "codebook_size": 1024,
        "codebook_dim": 256,
    },
}  # fmt: skip
AUTONAT_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 192, "num_layers": 7, "num_attention_heads": 6, "dropout": 0.0, "label_smoothing": 0.0,
        "learning_rate": 1.2e-3, "lr_scheduler": "cosine", "lr_warmup_steps": 100, "adam_beta1": 0.9, "adam_beta2": 0.98,
        "train_batch_size": 64, "use_ema": True, "ema_decay": 0.999, "max_train_steps": 3000, "validation_steps": 500,
        "checkpointing_steps": 500, "checkpoints_total_limit": 2, "remasking_temperature": 2.0, "guidance_scale": 2.0,
    },
    "small": {
        "hidden_size": 384, "num_layers": 13, "num_attention_heads": 6, "learning_rate": 4e-4, "lr_warmup_steps": 1000,
        "train_batch_size": 256, "use_ema": True, "ema_decay": 0.9995, "max_train_steps": 50_000, "checkpoints_total_limit": 2,
    },
    # AutoNAT-S; 256 on each of 8 processes are the paper's batch of 2,048.
    "paper": {
        "hidden_size": 512, "num_layers": 13, "num_attention_heads": 8, "learning_rate": 4e-4, "lr_warmup_steps": 5000,
        "train_batch_size": 256, "use_ema": True, "ema_decay": 0.9999, "max_train_steps": 500_000,
        "checkpointing_steps": 5000, "validation_steps": 5000, "checkpoints_total_limit": 2,
    },
}  # fmt: skip


def parse_with_preset(
    parser: argparse.ArgumentParser, presets: Mapping[str, Mapping[str, Any]], words: Sequence[str] | None = None
) -> argparse.Namespace:
    """
    Parse the command line with an option `--preset`, whose settings are defaults: `--preset tiny --help` shows them.

    `given` of the result has the names of the options that were typed.
    """
    parser.add_argument(
        "--preset",
        choices=list(presets),
        help="settings by the size of the data, instead of the defaults; small and paper have never been trained to their "
        "end",
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    parser.set_defaults(**presets.get(first.parse_known_args(words)[0].preset, {}))
    args = parser.parse_args(words)
    parser.set_defaults(**dict.fromkeys(vars(args)))
    args.given = {name for name, value in vars(parser.parse_args(words)).items() if value is not None}
    return args
