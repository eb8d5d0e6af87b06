"""What can be wrong with a call, found before anything is computed: a ValueError names value and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..strategies import GenerationStrategy


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_components(vqvae: Any, transformer: Any, scheduler: Any, output_type: str) -> None:
    """Whether tokenizer, transformer and scheduler speak of the same tokens; without images no tokenizer is needed."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type = {output_type!r} must be 'pil', 'np', 'pt' or 'latent'.")
    codes, mask_id = transformer.config.codebook_size, scheduler.config.mask_token_id
    if vqvae is None:
        if output_type != "latent":
            raise ValueError(f"output_type = {output_type!r} needs a vqvae, and the pipeline has none; take 'latent'.")
        if codes != mask_id:
            raise ValueError(
                f"the components do not fit: transformer has {codes} codes, and the scheduler's mask_token_id is {mask_id}; "
                "both must be equal."
            )
        return
    if not vqvae.config.num_vq_embeddings == codes == mask_id:
        raise ValueError(
            f"the components do not fit: vqvae has {vqvae.config.num_vq_embeddings} codes, transformer {codes}, and the "
            f"scheduler's mask_token_id is {mask_id}; all three must be equal."
        )
    if not vqvae.config.lookup_from_codebook:
        raise ValueError("the vqvae cannot decode token ids: its config needs lookup_from_codebook=True.")


def check_images_per_prompt(num_images_per_prompt: int) -> None:
    if num_images_per_prompt < 1:
        raise ValueError(f"num_images_per_prompt = {num_images_per_prompt} must be at least 1.")


def check_sampling(
    batch_size: int,
    guidance_scale: float,
    strategy: GenerationStrategy | Sequence[GenerationStrategy] | None,
    generator: torch.Generator | list[torch.Generator] | None,
) -> None:
    """Guidance, strategies and generators, for so many images."""
    if guidance_scale < 0:
        raise ValueError(
            f"guidance_scale = {guidance_scale} must not be negative; it multiplies the strategy's scales."
        )
    if isinstance(strategy, (list, tuple)) and len(strategy) != batch_size:
        raise ValueError(f"{len(strategy)} strategies were passed for {batch_size} images; pass one, or one for each.")
    if isinstance(generator, list):
        if len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators were passed for {batch_size} images; pass one for each.")
        wrong = [type(one).__name__ for one in generator if not isinstance(one, torch.Generator)]
        if wrong:
            raise ValueError(f"the list of generators holds {wrong[0]}; every entry must be a torch.Generator.")


def check_latents(latents: torch.Tensor | None, shape: tuple[int, int], mask_token_id: int) -> None:
    """Given tokens: int64 ids `[B, N]`, the mask id where they are to be filled in."""
    if latents is None:
        return
    if tuple(latents.shape) != shape or latents.dtype != torch.long:
        raise ValueError(f"latents must be int64 token ids {shape}, got {latents.dtype} {tuple(latents.shape)}.")
    low, high = latents.min().item(), latents.max().item()
    if low < 0 or high > mask_token_id:
        raise ValueError(
            f"latents hold id {low if low < 0 else high}; ids are 0 to {mask_token_id - 1}, {mask_token_id} is masked."
        )


def check_callback_tensors(names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"callbacks can be given {list(known)}, not {unknown}.")
