"""What the pipelines share: a grid of tokens is filled in step by step, and decoded to an image."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import CogVideoXLoraLoaderMixin as TransformerLoraLoaderMixin

from ..models.tokenizer import decode_tokens, lay_out_decoder, scale_factor, skip_padding_blocks
from ..schedulers.masked_token_scheduler import SamplingPlan
from ..strategies import Strategy
from .callbacks import CallState, CallStateMixin, call_on_step_end
from .checks import check_tokens
from .guided import GuidedTransformer, PolicyStep
from .hub import HubMixin


class MaskedTokenPipeline(CallStateMixin, HubMixin, DiffusionPipeline, TransformerLoraLoaderMixin):
    """
    Base of the pipelines. A subclass knows what images are asked to be, and which tokens are given; its components are a
    `vqvae` (or None), a `transformer`, a `scheduler` and what its condition needs.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vqvae"
    _callback_tensor_inputs = ["latents", "logits"]

    vqvae: Any  # a VQModel, or None
    transformer: Any
    scheduler: Any
    policy: Any = None  # an AdaptivePolicyModel, or None; a subclass need not take one

    def _register(self, **modules: Any) -> None:
        """`register_modules` of those that the class takes, and what follows from the tokenizer."""
        taken = inspect.signature(type(self).__init__).parameters
        self.register_modules(**{name: module for name, module in modules.items() if name in taken})
        if self.vqvae is not None:
            skip_padding_blocks(self.vqvae)
            lay_out_decoder(self.vqvae)
        self.vae_scale_factor = 16 if self.vqvae is None else scale_factor(self.vqvae)
        # Grey images have one channel, and stay so.
        grey = self.vqvae is not None and self.vqvae.config.in_channels == 1
        self.image_processor = VaeImageProcessor(
            vae_scale_factor=self.vae_scale_factor,
            do_normalize=False,
            do_convert_rgb=not grey,
            do_convert_grayscale=grey,
        )

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """As diffusers' own, but components keep their data types where none is given: the other pipeline has the same ones."""
        if not kwargs.keys().isdisjoint({"dtype", "torch_dtype"}):
            return super().from_pipe(pipeline, **kwargs)
        modules = [module for module in pipeline.components.values() if isinstance(module, torch.nn.Module)]
        before = [module.dtype for module in modules]
        # Of one type, they are not touched. Of several, float32 is between, in which no value of a half is lost.
        made = super().from_pipe(pipeline, **kwargs, dtype=before[0] if len(set(before)) == 1 else torch.float32)
        for module, dtype in zip(modules, before):
            if module.dtype != dtype:
                module.to(dtype)
        return made

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As diffusers' own, but a cast to the data type that everything has is none: it warns of each."""
        modules = [module for module in self.components.values() if isinstance(module, torch.nn.Module)]
        tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
        dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        if not args and all(kwargs == {"dtype": dtype} for dtype in dtypes):
            return self
        return super().to(*args, **kwargs)

    def to_json_string(self) -> str:
        """As every pipeline's, but of a policy that is not there nothing is said: as before there were any."""
        config = json.loads(super().to_json_string())
        if config.get("policy") == [None, None]:
            del config["policy"]
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    @property
    def denoiser(self) -> Any:
        """The transformer as `GuidedTransformer` calls it."""
        return self.transformer

    def plan(
        self,
        num_inference_steps: int | None,
        strategy: Strategy | Sequence[Strategy] | None,
        num_to_fill: int | None,
        device: torch.device,
    ) -> SamplingPlan:
        """What a call will do: the scheduler's plan; without a `strategy` the policy decides, where there is one.

        Args:
            num_inference_steps, strategy, num_to_fill, device: See [`NATScheduler.plan`].

        Raises:
            ValueError: As the scheduler; or the policy is for another number of steps.
        """
        if self.policy is None or strategy is not None:
            return self.scheduler.plan(num_inference_steps, strategy, num_to_fill, device)
        steps = self.policy.config.num_inference_steps
        if num_inference_steps not in (None, steps):
            raise ValueError(
                f"the policy is for {steps} steps, not num_inference_steps = {num_inference_steps}: leave it out, or pass a "
                "strategy, which is used in place of the policy."
            )
        return SamplingPlan(tuple(PolicyStep(t) for t in range(steps)))

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
            plan: Of the call.
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
                    logits, t, latents, generator, parameters=predict.parameters, num_to_fill=num_to_fill, given=given
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
