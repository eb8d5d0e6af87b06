"""aMUSEd (arXiv:2401.01808) with a searched strategy: diffusers' `amused/amused-256` and models like it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UVit2DModel, VQModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

# Loading a saved pipeline looks its components up in modules that are already imported, so they are imported here.
from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import GenerationStrategy, whole_steps
from .first_step import FirstStep
from .guided import Condition
from .pipeline_autonat_text_to_image import AutoNATTextToImagePipeline
from .prompts import Prompt


STATES_REFUSED = "aMUSEd takes pooled states too: give `prompt` and `negative_prompt` as texts."


class AmusedDenoiser:
    """A `UVit2DModel` under the contract of `GuidedTransformer`: rows of tokens, and the codebook size for the mask.

    Args:
        transformer: aMUSEd's; its mask id is the last of its vocabulary.
    """

    def __init__(self, transformer: UVit2DModel):
        self.transformer = transformer

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def __call__(self, tokens: torch.LongTensor, cache: None = None, num_masked: int | None = None, **condition: Any):
        config = self.transformer.config
        grid = tokens.masked_fill(tokens == config.codebook_size, config.vocab_size - 1)
        logits = self.transformer(grid.view(-1, config.sample_size, config.sample_size), **condition)  # [B, K, h, w]
        return SimpleNamespace(sample=logits.flatten(2).transpose(1, 2), cache=None)  # [B, N, K]


class AutoNATAmusedPipeline(AutoNATTextToImagePipeline):
    r"""
    Text-to-image generation with aMUSEd's weights and a strategy of ours, which `search` can find.

        pipe = AutoNATAmusedPipeline.from_amused(AmusedPipeline.from_pretrained("amused/amused-256"))

    aMUSEd's guidance scale g is s = g - 1 here: it mixes `uncond + g (cond - uncond)`.

    Args:
        vqvae ([`~diffusers.VQModel`]): aMUSEd's, as are the next three.
        transformer ([`~diffusers.UVit2DModel`]): with convolutions around its blocks.
        text_encoder ([`~transformers.CLIPTextModelWithProjection`]): of prompts.
        tokenizer ([`~transformers.CLIPTokenizer`]): of the encoder.
        scheduler ([`NATScheduler`]): its mask id is the codebook size.
        crop (`tuple[int, int]`, defaults to `(0, 0)`): what aMUSEd was told of its training images besides their size.
        aesthetic_score (`float`, defaults to 6): likewise.
    """

    _optional_components = []  # even the vqvae is needed: it tells how large images are, a part of the condition

    def __init__(
        self,
        vqvae: VQModel,
        transformer: UVit2DModel,
        scheduler: NATScheduler,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        crop: tuple[int, int] | list[int] = (0, 0),
        aesthetic_score: float = 6.0,
    ):
        super().__init__(vqvae, transformer, scheduler, text_encoder, tokenizer)
        self.register_to_config(crop=list(crop), aesthetic_score=aesthetic_score)

    @classmethod
    def from_amused(cls, pipeline: Any, strategies: list[GenerationStrategy] | None = None) -> AutoNATAmusedPipeline:
        """From diffusers' `AmusedPipeline`, sharing its components; without strategies with aMUSEd's own for 12 steps."""
        parts = {name: getattr(pipeline, name) for name in ("vqvae", "transformer", "text_encoder", "tokenizer")}
        stored = strategies or [cls.amused_strategy(12)]
        scheduler = NATScheduler(pipeline.transformer.config.codebook_size, [one.to_dict() for one in stored])
        return cls(**parts, scheduler=scheduler)

    @staticmethod
    def amused_strategy(
        num_inference_steps: int, guidance_scale: float = 10.0, temperature: tuple[float, float] = (2.0, 0.0)
    ) -> GenerationStrategy:
        """What `AmusedPipeline` does with these arguments, where a search can start.

        r = cos(pi t / 2T), tau1 = 1, tau2 from `temperature[0]` to `temperature[1]`, s = `guidance_scale` - 1.
        """
        T = whole_steps(num_inference_steps)
        heights = torch.linspace(*temperature, T, dtype=torch.float64).tolist()
        return GenerationStrategy(
            [math.cos(math.pi * t / (2 * T)) for t in range(1, T)] + [0.0],
            [1.0] * T,
            heights,
            [max(guidance_scale - 1, 0.0)] * T,
        )

    @property
    def denoiser(self) -> AmusedDenoiser:
        return AmusedDenoiser(self.transformer)

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """Not for aMUSEd, whose condition is more than the states of prompts."""
        raise ValueError(STATES_REFUSED)

    def check_prompt(
        self,
        prompt: Prompt | None,
        negative_prompt: Prompt | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
    ) -> int:
        if prompt_embeds is not None or negative_prompt_embeds is not None:
            raise ValueError(STATES_REFUSED)
        return super().check_prompt(prompt, negative_prompt, None, None)

    def get_conditions(
        self, prompt: Prompt | None, device: torch.device, num_images_per_prompt: int, is_guided: bool, *args: Any
    ) -> tuple[Condition, Condition]:
        texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        condition = self._states(texts, device, len(texts), num_images_per_prompt)
        if not is_guided:
            return condition, {}
        negative: Prompt = args[0] or ""
        nulls = [negative] if isinstance(negative, str) else list(negative)
        return condition, self._states(nulls, device, len(texts), num_images_per_prompt)

    def get_first_step(self, *args: Any) -> FirstStep:
        first_step = super().get_first_step(*args)
        told = (tuple(self.config.crop), self.config.aesthetic_score, self.vae_scale_factor)
        return replace(first_step, source=(*first_step.source, told))

    @torch.no_grad()
    def _states(self, texts: list[str], device: torch.device, batch: int, num_images_per_prompt: int) -> Condition:
        """Penultimate and pooled states of one text for all, or one for each; size, crop and score of the images."""
        length = self.tokenizer.model_max_length
        inputs = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self._warn_of_truncation(texts, length)
        output = self.text_encoder(inputs.input_ids.to(device), output_hidden_states=True)
        side = self.transformer.config.sample_size * self.vae_scale_factor
        told = torch.tensor([[side, side, *self.config.crop, self.config.aesthetic_score]], device=device)
        condition = {
            "encoder_hidden_states": output.hidden_states[-2].to(self.transformer.dtype),
            "pooled_text_emb": output.text_embeds,
            "micro_conds": told.to(output.text_embeds.dtype),
        }
        return {
            name: tensor.expand(batch, *tensor.shape[1:]).repeat_interleave(num_images_per_prompt, dim=0)
            for name, tensor in condition.items()
        }
