"""Class-conditional image generation with a masked-token transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, VQModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import replace_example_docstring
from diffusers.utils.torch_utils import unwrap_module

from ..models.tokenizer import skip_padding_blocks

# Loading a saved pipeline looks its components up in modules that are already imported, so they are imported here.
from ..models.transformer_enat import ENATCache, ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import GenerationStrategy


EXAMPLE_DOC_STRING = """
    Examples:
        ```python
        >>> import torch
        >>> from diffusers_autonat import AutoNATPipeline

        >>> pipe = AutoNATPipeline.from_pretrained("model_cards/autonat-fashion-mnist")
        >>> images = pipe(["Sneaker", "Bag"], num_inference_steps=8, generator=torch.Generator().manual_seed(0)).images
        ```
"""


class AutoNATPipeline(DiffusionPipeline):
    r"""
    Class-conditional generation: a fully masked grid of tokens is filled in a few steps and decoded to an image
    (AutoNAT, arXiv:2406.05478).

    Args:
        vqvae ([`~diffusers.VQModel`]): decodes token ids to images in [0, 1]; its config has `lookup_from_codebook`.
        transformer ([`UViTTransformer2DModel`] or [`ENATTransformer2DModel`]): predicts the tokens.
        scheduler ([`NATScheduler`]): does the maths of a step and holds the strategies.
        id2label (`dict[int, str]`, *optional*): class names; a name may list synonyms separated by commas.
    """

    model_cpu_offload_seq = "transformer->vqvae"
    _callback_tensor_inputs = ["latents", "logits"]

    def __init__(
        self,
        vqvae: VQModel,
        transformer: UViTTransformer2DModel | ENATTransformer2DModel,
        scheduler: NATScheduler,
        id2label: dict | None = None,
    ):
        super().__init__()
        self.register_modules(vqvae=vqvae, transformer=transformer, scheduler=scheduler)
        if vqvae is not None:
            skip_padding_blocks(vqvae)
        # JSON turns integer keys into strings; the pipeline is saved and loaded with strings, and used with integers.
        self.register_to_config(id2label=None if id2label is None else {str(k): v for k, v in id2label.items()})
        self.id2label = {} if id2label is None else {int(key): name for key, name in id2label.items()}
        self._label2ids: dict[str, list[int]] = {}
        for class_id, names in self.id2label.items():
            for name in {names, *names.split(",")}:
                self._label2ids.setdefault(name.strip().lower(), []).append(class_id)
        self.vae_scale_factor = (
            2 ** (len(self.vqvae.config.block_out_channels) - 1) if getattr(self, "vqvae", None) else 16
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    def get_label_ids(self, class_labels: int | str | Sequence[int | str] | torch.Tensor) -> list[int]:
        """Class ids of ids and names (any case), as a list.

        Raises:
            ValueError: an id is out of range (`num_classes` itself is the null class: no class), or a name is unknown
                or stands for several classes.
        """
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.tolist()
        if isinstance(class_labels, (int, str)):
            class_labels = [class_labels]
        num_classes, ids = self.transformer.config.num_classes, []
        for label in class_labels:
            if isinstance(label, str):
                found = self._label2ids.get(label.strip().lower(), [])
                if len(found) > 1:
                    raise ValueError(f"class name {label!r} stands for the ids {found}; pass one of the ids.")
                if not found:
                    known = (
                        ", ".join(map(repr, list(self.id2label.values())[:10])) or "none: the pipeline has no id2label"
                    )
                    raise ValueError(
                        f"unknown class name {label!r}; known are {known}{', ...' * (len(self.id2label) > 10)}."
                    )
                label = found[0]
            if isinstance(label, bool) or int(label) != label or not 0 <= label <= num_classes:
                raise ValueError(
                    f"class id {label!r} does not exist: ids are 0 to {num_classes - 1}, and {num_classes} for no class."
                )
            ids.append(int(label))
        return ids

    def check_inputs(
        self,
        class_ids: list[int],
        num_images_per_prompt: int,
        guidance_scale: float,
        strategy: GenerationStrategy | Sequence[GenerationStrategy] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> None:
        """Raise a ValueError that names the first wrong value, before anything is computed."""
        config, codebook_size = self.transformer.config, self.vqvae.config.num_vq_embeddings
        if not codebook_size == config.codebook_size == self.scheduler.config.mask_token_id:
            raise ValueError(
                f"the components do not fit: vqvae has {codebook_size} codes, transformer {config.codebook_size}, and the "
                f"scheduler's mask_token_id is {self.scheduler.config.mask_token_id}; all three must be equal."
            )
        if not self.vqvae.config.lookup_from_codebook:
            raise ValueError("the vqvae cannot decode token ids: its config needs lookup_from_codebook=True.")
        if not class_ids:
            raise ValueError("class_labels is empty: name at least one class.")
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt = {num_images_per_prompt} must be at least 1.")
        if guidance_scale < 0:
            raise ValueError(
                f"guidance_scale = {guidance_scale} must not be negative; it multiplies the strategy's scales."
            )
        batch_size = len(class_ids) * num_images_per_prompt
        if isinstance(strategy, (list, tuple)) and len(strategy) != batch_size:
            raise ValueError(
                f"{len(strategy)} strategies were passed for {batch_size} images; pass one, or one for each."
            )
        if isinstance(generator, list):
            if len(generator) != batch_size:
                raise ValueError(
                    f"{len(generator)} generators were passed for {batch_size} images; pass one for each."
                )
            wrong = [type(one).__name__ for one in generator if not isinstance(one, torch.Generator)]
            if wrong:
                raise ValueError(f"the list of generators holds {wrong[0]}; every entry must be a torch.Generator.")
        if latents is not None:
            shape = (batch_size, config.sample_size**2)
            if tuple(latents.shape) != shape or latents.dtype != torch.long:
                raise ValueError(
                    f"latents must be int64 token ids {shape}, got {latents.dtype} {tuple(latents.shape)}."
                )
            low, high = latents.min().item(), latents.max().item()
            if low < 0 or high > codebook_size:
                raise ValueError(
                    f"latents hold id {low if low < 0 else high}; ids are 0 to {codebook_size - 1}, {codebook_size} is masked."
                )
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type = {output_type!r} must be 'pil', 'np', 'pt' or 'latent'.")
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(f"callbacks can be given {self._callback_tensor_inputs}, not {unknown}.")

    def predict(
        self,
        latents: torch.LongTensor,
        class_ids: torch.LongTensor,
        step: int,
        num_masked: int | None = None,
        cache: ENATCache | None = None,
    ) -> tuple[torch.Tensor, ENATCache | None]:
        """Guided logits `[B, N, K]` of a step, and what an ENAT transformer reuses in the next one.

        The conditional and the unconditional pass run as one batch; without guidance there is no unconditional one.

        Args:
            latents: `[B, N]`. class_ids: `[B]`. num_masked: tokens masked in every sample, where that is known.
            cache: of the step before; conditional half first if that step was guided.
        """
        guided = self.scheduler.is_guided[step] and self.guidance_scale > 0
        if cache is not None and cache.num_encoded == 0:
            cache = None  # the grid was fully masked
        if cache is not None and not guided:
            cache = cache.chunk(len(cache.features) // len(latents))[0]
        if not guided:
            return self._transform(latents, class_ids, num_masked, cache)
        null_ids = torch.full_like(class_ids, self.transformer.config.num_classes)
        if cache is not None and len(cache.features) == len(latents):
            # The step before was not guided: the unconditional half has nothing to reuse, and its own, larger cost.
            cond, cond_cache = self._transform(latents, class_ids, num_masked, cache)
            uncond, uncond_cache = self._transform(latents, null_ids, num_masked, None)
            cache = ENATCache.cat([cond_cache, uncond_cache])
        else:
            ids, labels = torch.cat([latents, latents]), torch.cat([class_ids, null_ids])
            both, cache = self._transform(ids, labels, num_masked, cache)
            cond, uncond = both.chunk(2)
        scale = self.scheduler.guidance_scales[step].view(-1, 1, 1) * self.guidance_scale
        cond, uncond = cond.float(), uncond.float()
        return cond + scale * (cond - uncond), cache

    def _transform(
        self, latents: torch.LongTensor, class_ids: torch.LongTensor, num_masked: int | None, cache: ENATCache | None
    ) -> tuple[torch.Tensor, Any]:
        if not isinstance(unwrap_module(self.transformer), ENATTransformer2DModel):
            return self.transformer(latents, class_labels=class_ids).sample, None
        output = self.transformer(latents, class_labels=class_ids, cache=cache, num_masked=num_masked)
        return output.sample, output.cache

    def decode_latents(self, latents: torch.LongTensor) -> torch.Tensor:
        """Token ids `[B, N]` to images `[B, C, H, W]` in [0, 1]."""
        side, config = self.transformer.config.sample_size, self.vqvae.config
        shape = (len(latents), side, side, config.vq_embed_dim or config.latent_channels)
        return self.vqvae.decode(latents, force_not_quantize=True, shape=shape).sample.clamp(0, 1)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | torch.Tensor,
        num_inference_steps: int | None = None,
        strategy: GenerationStrategy | Sequence[GenerationStrategy] | None = None,
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
            strategy ([`GenerationStrategy`], *optional*): used instead of a stored one; a list holds one per image.
            guidance_scale (`float`, defaults to 1.0): multiplies the strategy's guidance scales; 0 turns guidance off.
            num_images_per_prompt (`int`, defaults to 1): images for each class label.
            generator (`torch.Generator` or a list of them, *optional*): with one for each image, an image does not
                depend on the batch it is made in.
            latents (`torch.LongTensor` of shape `(num_images, num_tokens)`, *optional*): initial tokens; those that
                are not the mask id are kept. All masked by default.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"` (token ids).
            return_dict (`bool`, defaults to `True`): return an [`~diffusers.ImagePipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, step, timestep, kwargs)` after
                each step; may return `{"latents": ...}` to change the tokens.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*): what `kwargs` holds, from `"latents"` (the
                default) and `"logits"`.

        Examples:

        Returns:
            [`~diffusers.ImagePipelineOutput`], or a tuple whose first element is the images.
        """
        # 1. Check inputs
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = ["latents"]
        class_ids = self.get_label_ids(class_labels)
        self.check_inputs(
            class_ids, num_images_per_prompt, guidance_scale, strategy, generator, latents, output_type,
            callback_on_step_end_tensor_inputs,
        )  # fmt: skip
        device = self._execution_device
        self._guidance_scale = guidance_scale

        # 2. Condition, timesteps, latents
        labels = torch.tensor(class_ids, device=device).repeat_interleave(num_images_per_prompt)
        self.scheduler.set_timesteps(num_inference_steps, strategy=strategy, device=device)
        self._num_timesteps = len(self.scheduler.timesteps)
        num_tokens = self.transformer.config.sample_size**2
        num_masked = None  # counts of given tokens would have to be read from the device
        if latents is None:
            latents = torch.full((len(labels), num_tokens), self.scheduler.config.mask_token_id, device=device)
            num_masked = self.scheduler.num_masked(num_tokens)
        latents = latents.to(device)

        # 3. Fill in the tokens
        cache = None
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for i, t in enumerate(self.scheduler.timesteps.tolist()):
                logits, cache = self.predict(latents, labels, t, num_masked and num_masked[t], cache)
                latents = self.scheduler.step(logits, t, latents, generator=generator).prev_sample

                if callback_on_step_end is not None:
                    callback_kwargs = {}
                    for name in callback_on_step_end_tensor_inputs:
                        callback_kwargs[name] = locals()[name]
                    before, version = latents, latents._version
                    latents = callback_on_step_end(self, i, t, callback_kwargs).pop("latents", latents)
                    if latents is not before or latents._version != version:
                        # Other tokens than were encoded may stand there now.
                        num_masked, cache = None, None
                progress_bar.update()

        # 4. Decode
        if output_type == "latent":
            images = latents
        else:
            images = self.image_processor.postprocess(self.decode_latents(latents), output_type=output_type)

        self.maybe_free_model_hooks()

        if not return_dict:
            return (images,)
        return ImagePipelineOutput(images=images)
