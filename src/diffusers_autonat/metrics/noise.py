"""A stream of noise for each image, so that an image does not depend on those made with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def image_generators(indices: Tensor, seed: int, device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One random stream for each image index: distinct within a seed, and unrelated between seeds.

    torch's CPU generator uses 32 bits of its seed; counting up from a scrambled start uses each at most once.

    Args:
        indices: of the images in the whole set `[B]`.
        seed: any whole number that is not negative.
        device: where the streams live. Streams on a GPU need no copies, but give other noise than those on the CPU.
    """
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return [torch.Generator(device).manual_seed((start + index) % 2**32) for index in indices.tolist()]
