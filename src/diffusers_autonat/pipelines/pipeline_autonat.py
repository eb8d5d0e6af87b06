"""Class-conditional image generation with a masked-token transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ImagePipelineOutput, VQModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import replace_example_docstring

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
from .class_names import ClassLabels, ClassNamesMixin
from .first_step import FirstStep
from .guided import GuidedTransformer
from .masked_token_pipeline import MaskedTokenPipeline


EXAMPLE_DOC_STRING = """
    Examples:
        ```python
        >>> import torch
        >>> from diffusers_autonat import AutoNATPipeline

        >>> pipe = AutoNATPipeline.from_pretrained("model_cards/autonat-fashion-mnist")
        >>> images = pipe(["Sneaker", "Bag"], num_inference_steps=8, generator=torch.Generator().manual_seed(0)).images
        ```
"""


class AutoNATPipeline(ClassNamesMixin, MaskedTokenPipeline):
    r"""
    Class-conditional generation: a fully masked grid of tokens is filled in a few steps and decoded to an image
    (AutoNAT, arXiv:2406.05478).

    Args:
        vqvae ([`~diffusers.VQModel`]): decodes token ids to images in [0, 1]; its config has `lookup_from_codebook`.
            May be None where token ids are all that is wanted (`output_type="latent"`).
        transformer ([`UViTTransformer2DModel`] or [`ENATTransformer2DModel`]): predicts the tokens.
        scheduler ([`NATScheduler`] or another order): does the maths of a step and holds the strategies.
        id2label (`dict[int, str]`, *optional*): class names; a name may list synonyms separated by commas.
        policy ([`AdaptivePolicyModel`], *optional*): sets the parameters of each step, image by image, where no strategy is
            passed.
    """

    _optional_components = ["policy"]

    def __init__(
        self,
        vqvae: VQModel | None,
        transformer: UViTTransformer2DModel | ENATTransformer2DModel,
        scheduler: MaskedTokenScheduler,
        id2label: dict | None = None,
        policy: AdaptivePolicyModel | None = None,
    ):
        super().__init__()
        self._register(vqvae=vqvae, transformer=transformer, scheduler=scheduler, policy=policy)
        self._register_classes(id2label)

    def check_inputs(
        self,
        class_ids: list[int],
        num_images_per_prompt: int,
        guidance_scale: float,
        strategy: Strategy | Sequence[Strategy] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> None:
        """Raise a ValueError that names the first wrong value, before anything is computed."""
        check_components(self.vqvae, self.transformer, self.scheduler, output_type)
        check_policy(self.policy, self.transformer, self.scheduler)
        check_images_per_prompt(num_images_per_prompt)
        batch_size = len(class_ids) * num_images_per_prompt
        check_sampling(batch_size, guidance_scale, strategy, generator)
        num_tokens = self.transformer.config.sample_size**2
        check_latents(latents, (batch_size, num_tokens), self.scheduler.config.mask_token_id)
        check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        class_labels: ClassLabels,
        num_inference_steps: int | None = None,
        strategy: Strategy | Sequence[Strategy] | None = None,
        guidance_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.LongTensor | None = None,
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
            class_labels (`int`, `str` or list of them): classes by id or name; the id `num_classes` means no class.
            num_inference_steps (`int`, *optional*): steps of a stored strategy; the longest stored one by default.
            strategy ([`GenerationStrategy`], *optional*): used instead of a stored one, or of the policy; a list holds one
                per image.
            guidance_scale (`float`, defaults to 1.0): multiplies the strategy's guidance scales; 0 turns guidance off.
            num_images_per_prompt (`int`, defaults to 1): images for each class label.
            generator (`torch.Generator` or a list of them, *optional*): with one for each image, an image does not
                depend on the batch it is made in.
            latents (`torch.LongTensor` of shape `(num_images, num_tokens)`, *optional*): initial tokens; those that
                are not the mask id are kept. All masked by default.
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
        class_ids = self.get_label_ids(class_labels)
        self.check_inputs(
            class_ids, num_images_per_prompt, guidance_scale, strategy, generator, latents, output_type, tensor_inputs
        )
        device = self._execution_device

        # 2. Condition
        class_labels = torch.tensor(class_ids, device=device).repeat_interleave(num_images_per_prompt)  # [B]
        null_label = self.transformer.config.num_classes
        null_labels = torch.full_like(class_labels, null_label)
        condition, null_condition = {"class_labels": class_labels}, {"class_labels": null_labels}
        first_step = FirstStep(class_ids, [null_label], (self.transformer,)).repeat(
            len(class_ids), num_images_per_prompt
        )
        predict = GuidedTransformer(
            self.denoiser, condition, null_condition, self.policy, first_step if latents is None else None
        )

        # 3. Tokens: counts of masked ones are known where none is given, otherwise they would be read from the device
        shape = (len(class_labels), self.transformer.config.sample_size**2)  # [B, N]
        plan = self.plan(num_inference_steps, strategy, shape[1] if latents is None else None, device)
        if latents is None:
            latents = torch.full(shape, self.scheduler.config.mask_token_id, device=device)

        # 4. Fill in the masked ones, and decode
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
