"""What the steps of a call have done to its first image, to be looked at afterwards."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image


class StepRecord(PipelineCallback):
    """
    A `callback_on_step_end` that changes nothing and keeps the first image's guess and masked tokens after each step.

    ```python
    record = StepRecord()
    pipe("Sneaker", callback_on_step_end=record)
    images, masks = record.pictures(pipe)
    ```
    """

    tensor_inputs = ["latents", "logits"]

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []  # tokens [1, N] and whether they are masked [N]

    def callback_fn(self, pipeline: Any, step_index: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        latents, logits = tensors["latents"][:1], tensors["logits"][:1]
        masked = latents == pipeline.scheduler.config.mask_token_id
        self.steps.append((torch.where(masked, logits.argmax(-1), latents), masked[0]))
        return {}

    @torch.no_grad()
    def pictures(self, pipeline: Any) -> tuple[list[Image.Image], list[np.ndarray]]:
        """For each step the guess as an image, and `[h, w]` booleans, True where a token is masked: as `plot_steps` takes them."""
        guesses = torch.cat([pipeline.decode_latents(guess) for guess, _ in self.steps])
        images = pipeline.image_processor.postprocess(guesses, "pil")
        return images, [masked.reshape(math.isqrt(len(masked)), -1).cpu().numpy() for _, masked in self.steps]
