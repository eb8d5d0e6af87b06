"""What accelerate makes of a model, and the model itself."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator


def plain_model(accelerator: Accelerator, model: torch.nn.Module) -> Any:
    """The model of what `accelerator.prepare` returned: neither wrapped for several processes nor compiled."""
    return accelerator.unwrap_model(model, keep_torch_compile=False)
