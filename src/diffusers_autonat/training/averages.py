"""The averaged weights of a training (EMA): followed while it runs, and copied out of it."""

from __future__ import annotations

from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel


def averaged_model(model: ModelMixin, ema: EMAModel) -> ModelMixin:
    """A copy of `model` whose parameters *are* the averages: it follows `ema.step` without copying anything."""
    averaged = type(model).from_config(model.config).eval().requires_grad_(False)
    for parameter, average in zip(averaged.parameters(), ema.shadow_params, strict=True):
        parameter.data = average
    return averaged


def averaged_copy(accelerator: Accelerator, model, ema: EMAModel | None) -> ModelMixin | None:
    """The model with the averaged weights, whole on the main process even where it is sharded; None on the others."""
    if ema is not None:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    state = accelerator.get_state_dict(model)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    if ema is not None:
        ema.restore(model.parameters())
    if not accelerator.is_main_process:
        return None
    plain = accelerator.unwrap_model(model)
    copy = type(plain).from_config(plain.config)
    copy.load_state_dict(weights)
    return copy.eval()
