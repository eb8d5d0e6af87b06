"""Text-to-image generation with a masked-token transformer (AutoNAT-Muse, arXiv:2406.05478, Table 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ImagePipelineOutput, VQModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import replace_example_docstring
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Loading a saved pipeline looks its components up in modules that are already imported, so they are imported here.
from ..models import exported  # noqa: F401
from ..models.policy_adaptive import AdaptivePolicyModel
from ..models.transformer_enat import ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from ..schedulers.masked_token_scheduler import MaskedTokenScheduler
from ..strategies import Strategy
from .callbacks import callback_tensors
from .checks import (
    check_callback_tensors,
    check_components,
    check_images_per_prompt,
    check_latents,
    check_policy,
    check_sampling,
)
from .guided import GuidedTransformer
from .masked_token_pipeline import MaskedTokenPipeline
from .prompts import Prompt, PromptMixin


EXAMPLE_DOC_STRING = """
    Examples:
        ```python
        >>> import torch
        >>> from diffusers_autonat import AutoNATTextToImagePipeline

        >>> pipe = AutoNATTextToImagePipeline.from_pretrained("autonat-muse-cc3m")  # as `diffusers-autonat convert` made it
        >>> image = pipe("a red boat on a lake", generator=torch.Generator().manual_seed(0)).images[0]
        ```
"""


class AutoNATTextToImagePipeline(PromptMixin, MaskedTokenPipeline):
    r"""
    Text-to-image generation: a fully masked grid of tokens is filled in a few steps and decoded to an image (AutoNAT,
    arXiv:2406.05478).

    Args:
        vqvae ([`~diffusers.VQModel`]): decodes token ids to images in [0, 1]; its config has `lookup_from_codebook`.
            May be None where token ids are all that is wanted (`output_type="latent"`).
        transformer ([`UViTTransformer2DModel`] or [`ENATTransformer2DModel`]): predicts the tokens; its config has a `context_dim`.
        scheduler ([`NATScheduler`] or another order): does the maths of a step and holds the strategies.
        text_encoder ([`~transformers.PreTrainedModel`]): its last hidden states, of width `context_dim`, are the
            condition: a CLIP text model, the encoder of T5, or a model like BERT.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): that of the encoder. Both may be None where all prompts are
            given as `prompt_embeds`.
        policy ([`AdaptivePolicyModel`], *optional*): sets the parameters of each step, image by image, where no strategy is
            passed.
        pad_token_id (`int`, *optional*): what prompts were padded with in training, where that is not the tokenizer's own
            padding: 0 for AutoNAT-Muse, whose tokenizer means "!" by it.
    """

    _optional_components = ["vqvae", "text_encoder", "tokenizer", "policy"]

    def __init__(
        self,
        vqvae: VQModel | None,
        transformer: UViTTransformer2DModel | ENATTransformer2DModel,
        scheduler: MaskedTokenScheduler,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        policy: AdaptivePolicyModel | None = None,
        pad_token_id: int | None = None,
    ):
        super().__init__()
        self._register(
            vqvae=vqvae,
            transformer=transformer,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            policy=policy,
        )
        self._register_padding(pad_token_id)

    def check_inputs(
        self,
        prompt: Prompt | None,
        negative_prompt: Prompt | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        num_images_per_prompt: int,
        guidance_scale: float,
        strategy: Strategy | Sequence[Strategy] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> int:
        """The number of images; raises a ValueError that names the first wrong value, before anything is computed."""
        check_components(self.vqvae, self.transformer, self.scheduler, output_type)
        check_policy(self.policy, self.transformer, self.scheduler)
        config = self.transformer.config
        if "num_classes" in config and config.get("context_dim") is None:
            raise ValueError("the transformer is class-conditional: use AutoNATPipeline.")
        check_images_per_prompt(num_images_per_prompt)
        batch = self.check_prompt(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        batch_size = batch * num_images_per_prompt
        check_sampling(batch_size, guidance_scale, strategy, generator)
        num_tokens = self.transformer.config.sample_size**2
        check_latents(latents, (batch_size, num_tokens), self.scheduler.config.mask_token_id)
        check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        return batch_size

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        strategy: Strategy | Sequence[Strategy] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.LongTensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> ImagePipelineOutput | tuple:
        """
        Generate images.

        Args:
            prompt (`str` or list of them, *optional*): what images show; or `prompt_embeds`. What is longer than the
                transformer's `context_length` is cut, with a warning that shows the end that is left out.
            num_inference_steps (`int`, *optional*): steps of a stored strategy; the longest stored one by default.
            strategy ([`GenerationStrategy`], *optional*): used instead of a stored one, or of the policy; a list holds one
                per image.
            guidance_scale (`float`, defaults to 1.0): multiplies the strategy's guidance scales; 0 turns guidance off.
            negative_prompt (`str` or list of them, *optional*): what guidance leads away from; by default the empty text.
            num_images_per_prompt (`int`, defaults to 1): images for each prompt.
            generator (`torch.Generator` or a list of them, *optional*): with one for each image, an image does not
                depend on the batch it is made in.
            latents (`torch.LongTensor` of shape `(num_images, num_tokens)`, *optional*): initial tokens; those that
                are not the mask id are kept. All masked by default.
            prompt_embeds (`torch.Tensor` of shape `(num_prompts, context_length, context_dim)`, *optional*): from
                `encode_prompt`, instead of `prompt`; `negative_prompt_embeds` instead of `negative_prompt`.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"` (token ids).
            return_dict (`bool`, defaults to `True`): return an [`~diffusers.ImagePipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, step, timestep, kwargs)` after
                each step; may return `{"latents": ...}` to change the tokens, or None.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*): what `kwargs` holds, from `"latents"` (the
                default) and `"logits"`.

        Examples:

        Returns:
            [`~diffusers.ImagePipelineOutput`], or a tuple whose first element is the images.
        """
        # 1. Check inputs
        tensor_inputs = callback_tensors(callback_on_step_end, callback_on_step_end_tensor_inputs)
        batch_size = self.check_inputs(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_images_per_prompt, guidance_scale,
            strategy, generator, latents, output_type, tensor_inputs,
        )  # fmt: skip
        device = self._execution_device

        # 2. Steps: counts of masked tokens are known where none is given, otherwise they would be read from the device
        shape = (batch_size, self.transformer.config.sample_size**2)  # [B, N]
        plan = self.plan(num_inference_steps, strategy, shape[1] if latents is None else None, device)
        # A callback may turn guidance on.
        is_guided = guidance_scale > 0 or callback_on_step_end is not None
        is_guided = is_guided and any(parameters.is_guided for parameters in plan.parameters)

        # 3. Condition
        condition, null_condition = self.get_conditions(
            prompt, device, num_images_per_prompt, is_guided, negative_prompt, prompt_embeds, negative_prompt_embeds
        )
        first_step = None
        if latents is None:
            first_step = self.get_first_step(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
            first_step = first_step.repeat(batch_size // num_images_per_prompt, num_images_per_prompt)
        predict = GuidedTransformer(self.denoiser, condition, null_condition, self.policy, first_step)

        # 4. Fill in the masked tokens, and decode
        if latents is None:
            latents = torch.full(shape, self.scheduler.config.mask_token_id, device=device)
        latents = self.fill_in(
            latents.to(device),
            predict,
            plan,
            guidance_scale,
            generator,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=tensor_inputs,
        )
        return self.finish(latents, output_type, return_dict)
