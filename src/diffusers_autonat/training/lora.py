"""Adapters (LoRA): a trained transformer learns new images with a few weights beside its own, which stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict


# Of the attention of all transformers; a model has some of them.
LAYERS = ["to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "to_out"]


def add_adapter(model: ModelMixin, rank: int) -> None:
    """Give a model an adapter that changes nothing yet; nothing else of the model is trained from now on."""
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LAYERS))


class AdapterState:
    """A model's adapter as a part of a checkpoint, which then holds nothing else of the model."""

    def __init__(self, model: ModelMixin):
        self.model = model

    def state_dict(self) -> dict[str, torch.Tensor]:
        return get_peft_model_state_dict(self.model)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        result: Any = set_peft_model_state_dict(self.model, state)
        unknown = result.unexpected_keys
        if unknown:
            raise ValueError(f"the model has no {unknown[0]}")


def save_adapter(pipeline: Any, folder: str | Path) -> None:
    """Write the adapter of a pipeline's transformer as `load_lora_weights` reads it."""
    layers = get_peft_model_state_dict(pipeline.transformer)
    pipeline.save_lora_weights(folder, transformer_lora_layers=layers)


def adapter_size(pipeline: DiffusionPipeline) -> int:
    """Its number of parameters."""
    return sum(tensor.numel() for tensor in get_peft_model_state_dict(pipeline.transformer).values())
