"""Inpainting, outpainting and variations of images with a masked-token transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ImagePipelineOutput, VQModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.utils import replace_example_docstring
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Loading a saved pipeline looks its components up in modules that are already imported, so they are imported here.
from ..models import exported  # noqa: F401
from ..models.policy_adaptive import AdaptivePolicyModel
from ..models.tokenizer import encode_images
from ..models.transformer_enat import ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from ..schedulers.masked_sampling import gumbel_noise
from ..schedulers.masked_token_scheduler import MaskedTokenScheduler
from ..strategies import Strategy
from .callbacks import callback_tensors
from .checks import (
    check_callback_tensors,
    check_components,
    check_images_per_prompt,
    check_number,
    check_policy,
    check_sampling,
)
from .class_names import ClassLabels, ClassNamesMixin
from .first_step import FirstStep
from .given_images import CropBox, masked_tokens, to_list, to_pixels
from .guided import GuidedTransformer
from .masked_token_pipeline import MaskedTokenPipeline
from .prompts import PromptMixin


EXAMPLE_DOC_STRING = """
    Examples:
        ```python
        >>> from PIL import Image
        >>> from diffusers_autonat import AutoNATInpaintPipeline, AutoNATPipeline

        >>> pipe = AutoNATInpaintPipeline.from_pipe(AutoNATPipeline.from_pretrained("model_cards/autonat-fashion-mnist"))
        >>> coat = Image.open("coat.png")
        >>> lower_half = Image.new("L", coat.size, "black")
        >>> lower_half.paste("white", (0, coat.height // 2, coat.width, coat.height))
        >>> completed = pipe(coat, lower_half, class_labels="Coat").images[0]
        ```
"""


class AutoNATInpaintPipeline(ClassNamesMixin, PromptMixin, MaskedTokenPipeline):
    r"""
    Editing: the tokens of an image that a mask marks are drawn anew, guided by a class or a prompt; the others stay.

    A token is drawn where any pixel of its square is white in the mask. The ratios of the strategy are shares of these
    tokens, not of the grid, so that a small hole is filled over all steps too. Fills more than holes: a canvas around an
    image, white in the mask (outpainting), or a share of all tokens (`strength`, variations of an image).

    Args:
        vqvae ([`~diffusers.VQModel`]): makes tokens of images and images of tokens.
        transformer ([`UViTTransformer2DModel`] or [`ENATTransformer2DModel`]): predicts the tokens; conditioned on classes
            or, with a `context_dim`, on text.
        scheduler ([`NATScheduler`] or another order): does the maths of a step and holds the strategies.
        text_encoder, tokenizer (*optional*): for prompts, as [`AutoNATTextToImagePipeline`] has them.
        id2label (`dict[int, str]`, *optional*): class names; a name may list synonyms separated by commas.
        policy ([`AdaptivePolicyModel`], *optional*): sets the parameters of each step, image by image, where no strategy is
            passed.
        pad_token_id (`int`, *optional*): of prompts, as [`AutoNATTextToImagePipeline`] has it.
    """

    _optional_components = ["text_encoder", "tokenizer", "policy"]

    def __init__(
        self,
        vqvae: VQModel,
        transformer: UViTTransformer2DModel | ENATTransformer2DModel,
        scheduler: MaskedTokenScheduler,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        id2label: dict | None = None,
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
        self._register_classes(id2label)
        self._register_padding(pad_token_id)
        self.mask_processor = VaeImageProcessor(
            vae_scale_factor=self.vae_scale_factor, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    @property
    def is_text_conditional(self) -> bool:
        """Whether images are asked for by a prompt, not by a class."""
        return getattr(self.transformer.config, "context_dim", None) is not None

    def check_inputs(
        self,
        num_conditions: int,
        num_images: int,
        num_masks: int,
        strength: float,
        num_images_per_prompt: int,
        guidance_scale: float,
        strategy: Strategy | Sequence[Strategy] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> int:
        """The batch before `num_images_per_prompt`; raises a ValueError that names the first wrong value."""
        check_components(self.vqvae, self.transformer, self.scheduler, output_type)
        check_policy(self.policy, self.transformer, self.scheduler)
        check_images_per_prompt(num_images_per_prompt)
        counts = {"images": num_images, "masks": num_masks, "prompts or classes": num_conditions}
        batch = max(counts.values())
        if any(count not in (1, batch) for count in counts.values()):
            found = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"{found} do not fit together: give one, or as many of each.")
        check_number("strength", strength, 0, 1, "it is the share of the masked tokens that is drawn anew")
        check_sampling(batch * num_images_per_prompt, guidance_scale, strategy, generator)
        check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        return batch

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: PipelineImageInput,
        mask_image: PipelineImageInput | None = None,
        class_labels: ClassLabels | None = None,
        prompt: str | list[str] | None = None,
        strength: float = 1.0,
        padding_mask_crop: int | None = None,
        keep_unmasked: bool = False,
        num_inference_steps: int | None = None,
        strategy: Strategy | Sequence[Strategy] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
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
        Edit images.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or list of them): resized to the size of the
                pipeline's images; tensors are `[B, C, H, W]` in [0, 1].
            mask_image (as `image`, one channel, *optional*): white where the image is painted anew; resized too. The whole
                image by default. All black: the image as the tokenizer reconstructs it.
            class_labels (`int`, `str` or list of them, *optional*): what is painted, for a class-conditional
                transformer; the id `num_classes` means no class.
            prompt (`str` or list of them, *optional*): what is painted, for a text-conditional one; or `prompt_embeds`.
            strength (`float`, defaults to 1.0): share of the tokens in the mask, chosen by chance, that is drawn anew.
            padding_mask_crop (`int`, *optional*): enlarge the mask's surroundings, with a margin of so many pixels, to the
                whole grid, and put what was painted back into the image, whose size is kept: for small holes in large
                images. For one Pillow image and mask of its size, some of it white, and `output_type="pil"`.
            keep_unmasked (`bool`, defaults to `False`): pixels that are black in the mask are those of `image`, not its
                reconstruction.
            num_inference_steps (`int`, *optional*): steps of a stored strategy; the longest stored one by default.
            strategy ([`GenerationStrategy`], *optional*): used instead of a stored one, or of the policy; a list holds one
                per image.
            guidance_scale (`float`, defaults to 1.0): multiplies the strategy's guidance scales; 0 turns guidance off.
            negative_prompt (`str` or list of them, *optional*): what guidance leads away from; by default the empty text.
            num_images_per_prompt (`int`, defaults to 1): images for each image, class or prompt.
            generator (`torch.Generator` or a list of them, *optional*): with one for each image, an image does not
                depend on the batch it is made in.
            prompt_embeds, negative_prompt_embeds (*optional*): from `encode_prompt`, instead of the texts.
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
        class_ids: list[int] = []
        if not self.is_text_conditional:
            if prompt is not None or prompt_embeds is not None:
                raise ValueError("the transformer is class-conditional: give `class_labels`, not a prompt.")
            class_ids = self.get_label_ids(class_labels)  # type: ignore[arg-type]
            num_conditions = len(class_ids)
        else:
            if class_labels is not None:
                raise ValueError("the transformer is text-conditional: give a `prompt`, not `class_labels`.")
            num_conditions = self.check_prompt(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        num_masks = 1 if mask_image is None else len(to_list(mask_image))
        batch = self.check_inputs(
            num_conditions, len(to_list(image)), num_masks, strength, num_images_per_prompt, guidance_scale, strategy,
            generator, output_type, tensor_inputs,
        )  # fmt: skip
        crop = self._crop_box(image, mask_image, padding_mask_crop, output_type)
        device = self._execution_device

        # 2. Steps; pixels and mask to tokens, masked where they are to be filled in
        side = self.transformer.config.sample_size * self.vae_scale_factor
        pixels = to_pixels(image, "image", self.image_processor, side, self.vqvae.config.in_channels, crop)
        mask = torch.ones(1, 1, side, side)
        if mask_image is not None:
            mask = to_pixels(mask_image, "mask_image", self.mask_processor, side, 1, crop)
        pixels, mask = (
            tensor.expand(batch, -1, -1, -1).repeat_interleave(num_images_per_prompt, dim=0)
            for tensor in (pixels, mask)
        )
        to_fill = self._choose_tokens(masked_tokens(mask, self.vae_scale_factor), strength, generator)  # [B, N]

        # Steps, whose counts are known where all images have as many tokens to fill; before the first network, as they may be
        # refused
        counts = to_fill.sum(dim=1)  # [B], on the CPU
        same = int(counts[0]) if len(counts.unique()) == 1 else None
        plan = self.plan(num_inference_steps, strategy, same, device)
        tokens = encode_images(self.vqvae, pixels.to(device, self.vqvae.dtype))  # [B, N]
        latents = tokens.masked_fill(to_fill.to(device), self.scheduler.config.mask_token_id)

        # 3. Condition
        is_guided = guidance_scale > 0 or callback_on_step_end is not None
        is_guided = is_guided and any(parameters.is_guided for parameters in plan.parameters)
        if self.is_text_conditional:
            condition, null_condition = self.get_conditions(
                prompt, device, 1, is_guided, negative_prompt, prompt_embeds, negative_prompt_embeds
            )
            first_step = self.get_first_step(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        else:
            labels, null_label = torch.tensor(class_ids, device=device), self.transformer.config.num_classes
            condition = {"class_labels": labels}
            null_condition = {"class_labels": torch.full_like(labels, null_label)}
            first_step = FirstStep(class_ids, [null_label], (self.transformer,))
        condition, null_condition = (
            {name: _repeat(tensor, batch, num_images_per_prompt) for name, tensor in one.items()}
            for one in (condition, null_condition)
        )
        is_blank = same == tokens.shape[1]  # no token is given
        predict = GuidedTransformer(
            self.denoiser,
            condition,
            null_condition,
            self.policy,
            first_step.repeat(batch, num_images_per_prompt) if is_blank else None,
        )

        # 4. Fill in the masked tokens, and decode
        if counts.max() > 0:
            latents = self.fill_in(
                latents,
                predict,
                plan,
                guidance_scale,
                generator,
                num_to_fill=counts.to(device),
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=tensor_inputs,
            )
        images = latents
        if output_type != "latent":
            images = self.decode_latents(latents)
            if keep_unmasked:
                images = torch.where(mask.to(device) > 0.5, images, pixels.to(device, images.dtype))
            images = self.image_processor.postprocess(images, output_type=output_type)
            if crop is not None:
                images = [self._put_back(one, image, mask_image, crop) for one in images]
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _choose_tokens(
        self, marked: torch.BoolTensor, strength: float, generator: torch.Generator | list[torch.Generator] | None
    ) -> torch.BoolTensor:
        """Those of the `marked` tokens `[B, N]` that are drawn anew: a share by chance."""
        if strength == 1:
            return marked
        noise = gumbel_noise(tuple(marked.shape), generator, marked.device)
        count = (marked.sum(dim=1, keepdim=True) * (strength - 2e-7)).ceil()  # 0.15 of 100 are 15 in float32 too
        rank = torch.where(marked, noise, float("inf")).argsort(dim=-1).argsort(dim=-1)
        return rank < count

    def _crop_box(self, image: Any, mask_image: Any, padding: int | None, output_type: str) -> CropBox | None:
        """The region that `padding_mask_crop` enlarges."""
        if padding is None:
            return None
        if not isinstance(image, Image.Image) or not isinstance(mask_image, Image.Image) or output_type != "pil":
            raise ValueError('padding_mask_crop is for one Pillow image and mask, and output_type="pil".')
        if image.size != mask_image.size:
            raise ValueError(
                f"image and mask_image must be of one size to be cropped: {image.size}, {mask_image.size}."
            )
        if mask_image.convert("1", dither=Image.Dither.NONE).getbbox() is None:
            raise ValueError("mask_image is all black, so there is nothing to crop to: mark what to paint in white.")
        side = self.transformer.config.sample_size * self.vae_scale_factor
        return self.mask_processor.get_crop_region(mask_image, side, side, pad=padding)

    def _put_back(self, painted: Any, image: Any, mask_image: Any, crop: CropBox) -> Any:
        """What was painted in its place in the image."""
        whole = self.image_processor.apply_overlay(mask_image, image, painted, crop)
        return whole.convert(painted.mode)


def _repeat(tensor: torch.Tensor, batch: int, num_images_per_prompt: int) -> torch.Tensor:
    """One row for all, or one for each, as one row for each image."""
    return tensor.expand(batch, *tensor.shape[1:]).repeat_interleave(num_images_per_prompt, dim=0)
