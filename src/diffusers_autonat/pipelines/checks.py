"""What can be wrong with a call, found before anything is computed: a ValueError names value and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch

from ..messages import shown
from ..strategies import GenerationStrategy, Strategy


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def is_whole(value: Any) -> bool:
    """Whether this is a whole number by type: 2 or NumPy's 2, not 2.0, True or "2"."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_components(vqvae: Any, transformer: Any, scheduler: Any, output_type: str) -> None:
    """Whether tokenizer, transformer and scheduler speak of the same tokens; without images no tokenizer is needed."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type = {shown(output_type)} must be 'pil', 'np', 'pt' or 'latent'.")
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


def check_policy(policy: Any, transformer: Any, scheduler: Any) -> None:
    """Whether a policy, if there is one, looks at what the transformer hands out, and sets what the scheduler needs."""
    if policy is None:
        return
    config = transformer.config
    found = policy.config.grid_size, policy.config.in_channels
    wanted = config.sample_size // getattr(config, "patch_size", 1), config.hidden_size
    if found != wanted:
        raise ValueError(
            f"the policy looks at a grid of {found[0]} x {found[0]} features of width {found[1]}, and the transformer's is "
            f"{wanted[0]} x {wanted[0]} of width {wanted[1]}: take the policy that was trained with it."
        )
    check_policy_order(scheduler)


def check_policy_order(scheduler: Any) -> None:
    """Whether a scheduler takes what a policy sets."""
    if scheduler.strategy_class is not GenerationStrategy:
        raise ValueError(
            f"a policy sets r, tau1, tau2 and s, and {type(scheduler).__name__} needs others: take NATScheduler, or an order "
            "that has these."
        )


def check_number(name: str, value: Any, low: float, high: float, meaning: str) -> None:
    """One number within bounds; NaN is not."""
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name} = {shown(value)} must be a number from {low:g} to {high:.3g}; {meaning}.")


def check_images_per_prompt(num_images_per_prompt: int) -> None:
    if not is_whole(num_images_per_prompt) or num_images_per_prompt < 1:
        raise ValueError(
            f"num_images_per_prompt = {shown(num_images_per_prompt)} must be a whole number of at least 1."
        )


def check_sampling(
    batch_size: int,
    guidance_scale: float,
    strategy: Strategy | Sequence[Strategy] | None,
    generator: torch.Generator | list[torch.Generator] | None,
) -> None:
    """Guidance, strategies and generators, for so many images."""
    check_number(
        "guidance_scale", guidance_scale, 0, torch.finfo(torch.float32).max, "it multiplies the strategy's scales"
    )
    if strategy is not None and not isinstance(strategy, Strategy):
        if not isinstance(strategy, (list, tuple)) or not all(isinstance(s, Strategy) for s in strategy):
            raise ValueError(
                f"strategy = {shown(strategy)} must be a GenerationStrategy or a list with one for each image; "
                "GenerationStrategy.from_json and .from_dict read one."
            )
        if len(strategy) != batch_size:
            raise ValueError(
                f"{len(strategy)} strategies were passed for {batch_size} images; pass one, or one for each."
            )
    if isinstance(generator, list):
        if len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators were passed for {batch_size} images; pass one for each.")
        wrong = [one for one in generator if not isinstance(one, torch.Generator)]
        if wrong:
            raise ValueError(
                f"the list of generators holds {type(wrong[0]).__name__}; every entry must be a torch.Generator."
            )
    elif generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator = {shown(generator)} must be a torch.Generator, as torch.Generator().manual_seed(0), or a list "
            "with one for each image."
        )


def check_latents(latents: torch.Tensor | None, shape: tuple[int, int], mask_token_id: int) -> None:
    """Given tokens: int64 ids `[B, N]`, the mask id where they are to be filled in."""
    if latents is None:
        return
    check_tokens(latents, shape)
    low, high = latents.min().item(), latents.max().item()
    if low < 0 or high > mask_token_id:
        raise ValueError(
            f"latents hold id {low if low < 0 else high}; ids are 0 to {mask_token_id - 1}, {mask_token_id} is masked."
        )


def check_tokens(latents: Any, shape: tuple[int, int]) -> None:
    """Type and shape of tokens from outside; their values are not looked at, which would wait for the device."""
    if not isinstance(latents, torch.Tensor):
        raise ValueError(f"latents must be an int64 tensor of token ids {shape}, got {type(latents).__name__}.")
    if tuple(latents.shape) != shape or latents.dtype != torch.long:
        raise ValueError(f"latents must be int64 token ids {shape}, got {latents.dtype} {tuple(latents.shape)}.")


def check_callback_tensors(names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"callbacks can be given {list(known)}, not {shown(unknown[0])}.")
