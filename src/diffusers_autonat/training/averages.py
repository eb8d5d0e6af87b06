"""The averaged weights of a training (EMA): followed while it runs, and copied out of it."""

from __future__ import annotations

from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from .prepared import plain_model


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that are learned, and averaged: all, but for a model with an adapter."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def averaged_model(model: ModelMixin, ema: EMAModel) -> ModelMixin:
    """A copy of `model` whose parameters *are* the averages, or the same: it follows `ema.step` without copying anything."""
    averaged = _of_the_same_shape(model).eval().requires_grad_(False)
    averages = iter(ema.shadow_params)
    for parameter, original in zip(averaged.parameters(), model.parameters(), strict=True):
        parameter.data = next(averages) if original.requires_grad else original.data
    return averaged


def averaged_copy(accelerator: Accelerator, model, ema: EMAModel | None) -> ModelMixin | None:
    """The model with the averaged weights, whole on the main process even where it is sharded; None on the others."""
    if ema is not None:
        ema.store(trained_parameters(model))
        ema.copy_to(trained_parameters(model))
    state = accelerator.get_state_dict(model)
    consume_prefix_in_state_dict_if_present(state, "_orig_mod.")  # of a compiled one
    weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    if ema is not None:
        ema.restore(trained_parameters(model))
    if not accelerator.is_main_process:
        return None
    copy = _of_the_same_shape(plain_model(accelerator, model))
    copy.load_state_dict(weights)
    return copy.eval()


def _of_the_same_shape(model: ModelMixin) -> ModelMixin:
    """A model with other weights, and with an adapter where `model` has one."""
    other = type(model).from_config(model.config)
    for name, config in getattr(model, "peft_config", {}).items():
        other.add_adapter(config, name)
    return other
