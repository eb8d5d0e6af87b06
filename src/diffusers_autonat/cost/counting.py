"""What an image costs in multiply-accumulates, from the models themselves run on the meta device.

`total` counts everything; the papers' "TFLOPs" are `total_without_attention`: their counter did not see the two
products inside attention (QK^T and AV), and called a multiply-accumulate one operation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from diffusers import UVit2DModel
from diffusers.models.attention_dispatch import attention_backend
from diffusers.utils.torch_utils import unwrap_module
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..models.policy_adaptive import AdaptivePolicyModel
from ..models.tokenizer import PaddingResnetBlock2D, padding_blocks
from ..models.transformer_enat import ENATTransformer2DModel
from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import Strategy


CLIP_LENGTH = 77  # tokens of a text, which aMUSEd's config does not say


class Macs(NamedTuple):
    """Multiply-accumulates: products with weights, and products of two activations inside attention."""

    weights: float = 0.0
    attention: float = 0.0

    def __add__(self, other: Macs) -> Macs:  # type: ignore[override]
        return Macs(self.weights + other.weights, self.attention + other.attention)

    def __mul__(self, factor: float) -> Macs:  # type: ignore[override]
        return Macs(self.weights * factor, self.attention * factor)


@dataclass(frozen=True)
class PipelineCost:
    """
    Multiply-accumulates of one image.

    Args:
        num_inference_steps: T.
        num_guided_steps: Steps that run the unconditional pass too.
        transformer: All passes of the transformer.
        decoder: Decoding the tokens.
        saved: What the unconditional passes that are not run would have cost on top.
        policy: All steps of a policy, where one sets the parameters.
    """

    num_inference_steps: int
    num_guided_steps: int
    transformer: Macs
    decoder: Macs
    saved: float
    policy: Macs = Macs()

    @property
    def total(self) -> float:
        return sum(self.transformer) + sum(self.decoder) + sum(self.policy)

    @property
    def total_without_attention(self) -> float:
        return self.transformer.weights + self.decoder.weights + self.policy.weights


class CostVaries(ValueError):
    """What an image costs follows counts that only its own run tells."""


def pipeline_cost(pipeline: Any, strategy: Strategy | None, guidance_scale: float = 1.0) -> PipelineCost:
    """
    Cost of an image that `pipeline` generates with `strategy`, or with its policy, from a fully masked grid. It is that of an
    image on its own: several of one class or prompt in a call share the first step, and each costs less.

    Models are measured once for each config, so that a call is cheap enough for a search. Text encoders are left out.

    Args:
        pipeline: Anything with a `transformer` (either of ours, or aMUSEd's) and a `vqvae`.
        strategy: None where the pipeline's policy sets the parameters.
        guidance_scale: As the pipeline's: 0 turns guidance, and the unconditional passes, off.

    Raises:
        ValueError: The guidance scale is negative.
        CostVaries: The cost follows counts that differ from image to image: `measured_costs` runs some.
    """
    if not guidance_scale >= 0:
        raise ValueError(f"guidance_scale = {guidance_scale} must not be negative; 0 turns guidance off.")
    transformer, vqvae = unwrap_module(pipeline.transformer), unwrap_module(pipeline.vqvae)
    pass_cost = _pass_cost(_class_of(transformer), transformer.to_json_string())  # type: ignore[arg-type]
    side = transformer.config.sample_size
    padding = tuple(padding_blocks(vqvae))
    decoder = _decoder_cost(_class_of(vqvae), vqvae.to_json_string(), padding, side)  # type: ignore[arg-type]

    policy = Macs()
    if strategy is None:
        network = unwrap_module(pipeline.policy)
        plan = pipeline.plan(None, None, side**2, "meta")
        policy = _policy_cost(network.to_json_string()) * len(plan.parameters)
    else:
        plan = (getattr(pipeline, "scheduler", None) or NATScheduler()).plan(strategy=strategy, num_to_fill=side**2)
    guided = [step.is_guided and guidance_scale > 0 for step in plan.parameters]
    if plan.num_masked is None and isinstance(transformer, ENATTransformer2DModel):
        raise CostVaries(
            "what ENAT costs follows the number of revealed tokens, which neither a policy nor this order's strategies tell."
        )
    num_masked = plan.num_masked or (side**2,) * len(guided)  # a U-ViT's passes cost the same with any number
    cost, both_always = Macs(), Macs()
    for t, masked in enumerate(num_masked):
        encoded = side**2 - num_masked[t - 1] if t > 0 else 0
        conditional = pass_cost(masked, encoded)
        cost += conditional
        both_always += conditional * 2
        if guided[t]:
            # The unconditional half can only reuse what a pass of its own has encoded in the step before.
            cost += pass_cost(masked, encoded if t > 0 and guided[t - 1] else 0)
    return PipelineCost(len(guided), sum(guided), cost, decoder, sum(both_always) - sum(cost), policy)


def measured_costs(
    pipeline: Any,
    class_labels: Sequence[int],
    strategy: Strategy | None = None,
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> list[Macs]:
    """
    Cost of each image that a pipeline with classes makes, one at a time, counted while it is made: of transformer, policy and
    decoder, where it differs from image to image.

    Args:
        class_labels: Of the images. seed: Of their noise, `seed` + i for image i.
        strategy, guidance_scale: As of the pipeline's call.
    """
    costs = []
    for number, label in enumerate(class_labels):
        generator = torch.Generator().manual_seed(seed + number)
        options = {"strategy": strategy, "guidance_scale": guidance_scale, "generator": generator, "output_type": "pt"}
        costs.append(_count(lambda: pipeline([label], **options)))
    return costs


def _count(module: Callable, *inputs: torch.Tensor, **kwargs) -> Macs:
    """Run `module` and count. Matrix products of batches, and nothing else in these models, are attention's."""
    with torch.no_grad(), attention_backend("_native_math"), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            module(*inputs, **kwargs)
    flops = counter.get_flop_counts()["Global"]
    attention = sum(count for operation, count in flops.items() if "bmm" in str(operation))
    return Macs((sum(flops.values()) - attention) / 2, attention / 2)


def _on_meta(model_class: type, config: str) -> Any:
    with torch.device("meta"):
        return model_class.from_config(json.loads(config)).eval()  # type: ignore[attr-defined]


def _class_of(model: Any) -> type:
    """An exported model costs what the one does that it was exported from."""
    return getattr(model, "exported_from", type(model))


@lru_cache(maxsize=64)
def _policy_cost(config: str) -> Macs:
    """Of one step of a policy."""
    policy = _on_meta(AdaptivePolicyModel, config)
    features = torch.zeros(1, policy.config.grid_size**2, policy.config.in_channels, device="meta")
    return _count(policy, features, 0)


@lru_cache(maxsize=64)
def _pass_cost(model_class: type, config: str) -> Callable[[int, int], Macs]:
    """Cost of one pass for one sample, as a function of the masked tokens and those encoded in an earlier step."""
    model = _on_meta(model_class, config)
    if isinstance(model, UVit2DModel):
        return _amused_pass_cost(model)
    return _enat_pass_cost(model) if isinstance(model, ENATTransformer2DModel) else _uvit_pass_cost(model)


def _uvit_pass_cost(model: Any) -> Callable[[int, int], Macs]:
    ids = torch.zeros(1, model.config.sample_size**2, dtype=torch.long, device="meta")
    if model.config.context_dim is None:
        condition = {"class_labels": ids[:, 0]}
    else:
        shape = (1, model.config.context_length, model.config.context_dim)
        condition = {"encoder_hidden_states": torch.zeros(shape, device="meta")}
    cost = _count(model, ids, **condition)
    return lambda num_masked, num_encoded: cost


def _amused_pass_cost(model: UVit2DModel) -> Callable[[int, int], Macs]:
    config, told = model.config, 5  # height, width, crop and score of the image, each encoded on its own
    pooled_width = config.cond_embed_dim
    condition = {
        "encoder_hidden_states": torch.zeros(1, CLIP_LENGTH, config.encoder_hidden_size, device="meta"),
        "pooled_text_emb": torch.zeros(1, pooled_width, device="meta"),
        "micro_conds": torch.zeros(1, told, device="meta"),
    }
    tokens = torch.zeros(1, config.sample_size, config.sample_size, dtype=torch.long, device="meta")
    cost = _count(model, tokens, **condition)
    return lambda num_masked, num_encoded: cost


def _enat_pass_cost(model: ENATTransformer2DModel) -> Callable[[int, int], Macs]:
    """
    ENAT works on gathered tokens, so a pass has as many costs as there are token counts. A block's is linear in its own
    and in its context tokens, and its attention goes with own * (own + context): three measurements tell it for all.
    """
    num_tokens, config = model.config.sample_size**2, model.config

    def tokens(count: int) -> torch.Tensor:
        return torch.zeros(1, count, config.hidden_size, device="meta")

    def block(own: int, context: int) -> Macs:
        return _count(model.encoder_blocks[0], tokens(own), tokens(1)[:, 0], tokens(context) if context else None)

    one, two, with_context = block(1, 0), block(2, 0), block(1, 1)
    per_own, per_context = two.weights - one.weights, with_context.weights - one.weights
    modulation, per_pair = one.weights - per_own, one.attention

    def blocks(number: int, own: int, context: int, modulated: bool) -> Macs:
        if own == 0:  # the stage is left out
            return Macs()
        weights = (0 if modulated else modulation) + per_own * own + per_context * context
        return Macs(weights, per_pair * own * (own + context)) * number

    reuse = _count(model.reuse_proj, tokens(1))
    places = torch.zeros(1, num_tokens, dtype=torch.long, device="meta")
    codebook = torch.zeros(config.codebook_size, config.hidden_size, device="meta")
    head = _count(model.head, tokens(num_tokens), places, codebook)
    text = Macs((config.context_dim or 0) * config.hidden_size)

    def cost(num_masked: int, num_encoded: int) -> Macs:
        num_visible = num_tokens - num_masked
        modulated = num_encoded > 0  # by the step that has encoded them
        encoder = blocks(config.num_encoder_layers, num_visible - num_encoded, num_encoded, modulated)
        decoder = blocks(config.num_decoder_layers, num_masked, num_visible, modulated)
        return reuse * num_encoded + encoder + decoder + head + text

    return cost


@lru_cache(maxsize=64)
def _decoder_cost(model_class: type, config: str, padding: tuple[str, ...], sample_size: int) -> Macs:
    """Cost of decoding a square of `sample_size**2` codes without the `padding` blocks."""
    vqvae = _on_meta(model_class, config)
    for name in padding:
        vqvae.decoder.get_submodule(name).__class__ = PaddingResnetBlock2D
    width = vqvae.config.vq_embed_dim or vqvae.config.latent_channels
    codes = torch.zeros(1, width, sample_size, sample_size, device="meta")
    # Tokenizers are counted in full by both conventions; those of the papers have no attention.
    return Macs(sum(_count(lambda latents: vqvae.decoder(vqvae.post_quant_conv(latents)), codes)))
