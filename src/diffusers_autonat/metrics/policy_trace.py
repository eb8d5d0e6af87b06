"""What a policy does: the parameters that it sets for every image and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .conditions import balanced_labels
from .extractors.base import to_uint8
from .noise import image_generators


# Of `StepParameters`, by the names that schedules have in a strategy.
SCHEDULES = {
    "mask_ratios": "mask_ratio",
    "sampling_temperatures": "sampling_temperature",
    "remasking_temperatures": "remasking_temperature",
    "guidance_scales": "guidance_scale",
}


@dataclass(frozen=True)
class PolicyTrace:
    """
    Args:
        images: `[n, C, H, W]`, uint8. class_labels: `[n]`, what they were asked to be.
        schedules: `mask_ratios`, `sampling_temperatures`, `remasking_temperatures`, `guidance_scales`, each `[n, T]`.
    """

    images: Tensor
    class_labels: Tensor
    schedules: Mapping[str, Tensor]


def trace_policy(
    pipeline: Any, num_images: int, seed: int = 0, batch_size: int = 32, progress: bool = False
) -> PolicyTrace:
    """
    Make images of all classes alike with a pipeline's policy, and keep what it sets.

    Args:
        pipeline: An `AutoNATPipeline`. seed: Of the noise; an image depends on it and on its number alone.

    Raises:
        ValueError: the pipeline has no policy.
    """
    if pipeline.policy is None:
        raise ValueError("the pipeline has no policy: its strategy is the same for every image.")
    labels = balanced_labels(num_images, pipeline.transformer.config.num_classes)
    steps: list[Any] = []
    images, rows_of = list[Tensor](), {name: list[Tensor]() for name in SCHEDULES}
    watch = pipeline.policy.register_forward_hook(lambda policy, _, output: steps.append(output.parameters))
    try:
        for rows in tqdm(torch.arange(num_images).split(batch_size), desc="policy", disable=not progress):
            steps.clear()
            generator = image_generators(rows, seed)
            made = pipeline(labels[rows].tolist(), generator=generator, output_type="pt").images
            images.append(to_uint8(made).cpu())
            for name, of_step in SCHEDULES.items():
                rows_of[name].append(torch.stack([getattr(step, of_step) for step in steps], dim=1).float().cpu())
    finally:
        watch.remove()
    return PolicyTrace(torch.cat(images), labels, {name: torch.cat(parts) for name, parts in rows_of.items()})
