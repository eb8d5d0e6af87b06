"""What the trainings of judges share: what is asked of their sizes, and the folder that transformers and `load_extractor` load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ViTImageProcessorPil

from ..cards import save_card
from ..files import whole_folder, write_json


def check_stages(hidden_sizes: Sequence[int], depths: Sequence[int]) -> None:
    """A ValueError unless there is a width and a depth for each stage."""
    if len(hidden_sizes) != len(depths):
        raise ValueError(f"--hidden_sizes names {len(hidden_sizes)} stages and --depths {len(depths)}: name as many.")


def save_judge(
    output: str | Path,
    model: PreTrainedModel,
    side: int,
    num_channels: int,
    result: dict[str, Any],
    card: str | None = None,
) -> None:
    """
    The model, its preprocessing and `training.json`, all or nothing.

    Args:
        side: Of the images that the model sees, in pixels, from -1 to 1. result: What `training.json` tells.
        card: Text of README.md, if there is to be one.
    """
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        ViTImageProcessorPil(
            size={"height": side, "width": side}, image_mean=[0.5] * num_channels, image_std=[0.5] * num_channels
        ).save_pretrained(folder)
        write_json(folder / "training.json", result)
        if card is not None:
            save_card(folder, card)
