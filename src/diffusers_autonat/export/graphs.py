"""What each model's graph computes: a module on tensors alone, inputs to trace it with, and which of their sizes may change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import VQModel
from torch.export import Dim

from ..models.exported import (
    ExportedENATTransformer2DModel,
    ExportedMixin,
    ExportedUViTTransformer2DModel,
    ExportedVQModel,
)
from ..models.transformer_enat import Arrangement, ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel


BATCH = Dim("batch")
ROWS = 3  # of what is traced: 1 would be taken for a constant


@dataclass(frozen=True)
class TracedModel:
    """A graph to be.

    Args:
        module: Called with `inputs` by name; returns tensors in the order of `outputs`.
        dynamic: For an input its sizes, beside the batch, that may be others than those of the example.
        runner: Class that runs it.
    """

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: tuple[str, ...]
    runner: type[ExportedMixin]
    dynamic: dict[str, dict[int, Any]]

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        return {name: {0: BATCH} | self.dynamic.get(name, {}) for name in self.inputs}


class UViTGraph(torch.nn.Module):
    def __init__(self, model: UViTTransformer2DModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, class_labels=None, encoder_hidden_states=None):
        return self.model(input_ids, class_labels, encoder_hidden_states, return_dict=False)


class ENATGraph(torch.nn.Module):
    def __init__(self, model: ENATTransformer2DModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids, earlier, fresh, masked, places, encoder_mask, decoder_mask,
        class_labels=None, encoder_hidden_states=None,
    ):  # fmt: skip
        arrangement = Arrangement.from_inputs(earlier, fresh, masked, places, encoder_mask, decoder_mask)
        return self.model.compute(input_ids, arrangement, class_labels, encoder_hidden_states)[:3]


class DecoderGraph(torch.nn.Module):
    def __init__(self, vqvae: VQModel):
        super().__init__()
        self.vqvae = vqvae

    def forward(self, tokens):
        config, side = self.vqvae.config, math.isqrt(tokens.shape[1])
        shape = (tokens.shape[0], side, side, config.vq_embed_dim or config.latent_channels)
        return self.vqvae.decode(tokens, force_not_quantize=True, shape=shape, return_dict=False)[0]


def trace_transformer(model: Any) -> TracedModel:
    """
    Logits of a batch of any size, and features.

    Raises:
        ValueError: The model is of another class than those that can be exported.
    """
    config = model.config
    tokens = torch.arange(ROWS * config.sample_size**2).view(ROWS, -1) % config.codebook_size
    inputs = {"input_ids": tokens}
    if config.context_dim is None:
        inputs["class_labels"] = torch.zeros(ROWS, dtype=torch.long)
    else:
        inputs["encoder_hidden_states"] = torch.ones(ROWS, config.context_length, config.context_dim)
    if isinstance(model, UViTTransformer2DModel):
        return TracedModel(UViTGraph(model), inputs, ("sample", "features"), ExportedUViTTransformer2DModel, {})
    # A third of the tokens of each kind; when the graph is run they may be as many as there are.
    places = torch.arange(tokens.shape[1]).expand(ROWS, -1).contiguous()
    earlier, fresh, masked = places.tensor_split(3, dim=1)
    reused = earlier.shape[1]
    inputs |= {
        "earlier": torch.ones(ROWS, reused, config.hidden_size), "fresh": fresh.contiguous(), "masked": masked.contiguous(),
        "places": places, "encoder_mask": torch.ones(ROWS, reused + fresh.shape[1], dtype=torch.bool),
        "decoder_mask": torch.ones_like(places, dtype=torch.bool),
    }  # fmt: skip
    dynamic = {name: {1: Dim.DYNAMIC} for name in ("earlier", "fresh", "masked", "encoder_mask", "decoder_mask")}
    outputs = ("sample", "features", "encoded")
    return TracedModel(ENATGraph(model), inputs, outputs, ExportedENATTransformer2DModel, dynamic)


def trace_decoder(vqvae: VQModel, num_tokens: int) -> TracedModel:
    """Images of token ids `[B, num_tokens]`."""
    tokens = torch.zeros(ROWS, num_tokens, dtype=torch.long)
    return TracedModel(DecoderGraph(vqvae), {"tokens": tokens}, ("sample",), ExportedVQModel, {})
