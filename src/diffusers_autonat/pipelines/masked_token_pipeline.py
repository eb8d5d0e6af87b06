"""What the pipelines share: a grid of tokens is filled in step by step, and decoded to an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import CogVideoXLoraLoaderMixin as TransformerLoraLoaderMixin

from ..models.tokenizer import decode_tokens, scale_factor, skip_padding_blocks
from ..schedulers.masked_token_scheduler import SamplingPlan
from .callbacks import CallState, CallStateMixin, call_on_step_end
from .checks import check_tokens
from .guided import GuidedTransformer
from .remote_code import save_remote_code


class MaskedTokenPipeline(CallStateMixin, DiffusionPipeline, TransformerLoraLoaderMixin):
    """
    Base of the pipelines. A subclass knows what images are asked to be, and which tokens are given; its components are a
    `vqvae` (or None), a `transformer`, a `scheduler` and what its condition needs.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vqvae"
    _callback_tensor_inputs = ["latents", "logits"]

    vqvae: Any  # a VQModel, or None
    transformer: Any
    scheduler: Any

    def _register(self, **modules: Any) -> None:
        """`register_modules`, and what follows from the tokenizer."""
        self.register_modules(**modules)
        if self.vqvae is not None:
            skip_padding_blocks(self.vqvae)
        self.vae_scale_factor = 16 if self.vqvae is None else scale_factor(self.vqvae)
        # Grey images have one channel, and stay so.
        grey = self.vqvae is not None and self.vqvae.config.in_channels == 1
        self.image_processor = VaeImageProcessor(
            vae_scale_factor=self.vae_scale_factor,
            do_normalize=False,
            do_convert_rgb=not grey,
            do_convert_grayscale=grey,
        )

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """As every pipeline's; writes `pipeline.py` too, by which `DiffusionPipeline` finds this class."""
        save_remote_code(type(self), save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def denoiser(self) -> Any:
        """The transformer as `GuidedTransformer` calls it."""
        return self.transformer

    def decode_latents(self, latents: torch.LongTensor) -> torch.Tensor:
        """Token ids `[B, N]` to images `[B, C, H, W]` in [0, 1]."""
        return decode_tokens(self.vqvae, latents)

    def fill_in(
        self,
        latents: torch.LongTensor,
        predict: GuidedTransformer,
        plan: SamplingPlan,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_to_fill: torch.Tensor | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> torch.LongTensor:
        """
        The sampling loop: tokens `[B, N]`, the mask id where they are to be filled in, to tokens without a mask.

        Args:
            latents: On the device of the transformer.
            predict: Guided logits of the images.
            plan: Of the scheduler.
            num_to_fill: See [`NATScheduler.step`].
            guidance_scale, generator, callback_on_step_end, callback_on_step_end_tensor_inputs: As the call was given.
        """
        state = self._state = CallState(len(plan.parameters), guidance_scale)
        shape, num_masked = tuple(latents.shape), plan.num_masked
        given = latents != self.scheduler.config.mask_token_id  # [B, N]
        with self.progress_bar(total=state.num_timesteps) as progress_bar:
            for t, parameters in enumerate(plan.parameters):
                if state.interrupt:
                    continue
                logits = predict(latents, parameters, num_masked[t] if num_masked else None, state.guidance_scale)
                output = self.scheduler.step(
                    logits, t, latents, generator, parameters=parameters, num_to_fill=num_to_fill, given=given
                )
                latents = output.prev_sample

                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "logits": logits}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs or ["latents"]}
                    changed = call_on_step_end(self, callback_on_step_end, t, tensors, state)
                    if changed is not None:
                        check_tokens(changed, shape)
                        latents, num_masked = changed, None
                        predict.forget()
                progress_bar.update()

        if state.interrupt:  # what is still masked is as it was guessed in the last step that was made
            mask_token_id = self.scheduler.config.mask_token_id
            latents = torch.where(latents == mask_token_id, output.pred_original_sample, latents)
        predict.check_finite()
        return latents

    def finish(self, latents: torch.LongTensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """Tokens to what the call returns."""
        images = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(self.decode_latents(latents), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
