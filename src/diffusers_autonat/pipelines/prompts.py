"""Prompts as the states of a text encoder: what a text-conditional transformer is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import logging

from .checks import shortened
from .guided import Condition


logger = logging.get_logger(__name__)

Prompt = str | Sequence[str]


@torch.no_grad()
def encode_texts(
    text_encoder: Any, tokenizer: Any, texts: list[str], context_length: int, device: torch.device
) -> torch.Tensor:
    """
    What a transformer is given of texts, in training as in a pipeline: the encoder's last hidden states
    `[B, context_length, context_dim]`. Longer texts are cut.

    Args:
        text_encoder ([`~transformers.PreTrainedModel`]): on `device`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): of the encoder.
    """
    inputs = tokenizer(
        texts, padding="max_length", max_length=context_length, truncation=True, return_tensors="pt"
    ).to(device)
    # CLIP reads from left to right, so padding changes nothing before it, and it was trained without a mask.
    if text_encoder.config.model_type.startswith("clip"):
        return text_encoder(inputs.input_ids).last_hidden_state
    mask = inputs.attention_mask
    states = text_encoder(inputs.input_ids, attention_mask=mask).last_hidden_state
    return states * mask[..., None].to(states.dtype)  # what stands at padding means nothing


class PromptMixin:
    """For pipelines with a `text_encoder`, a `tokenizer` and a text-conditional `transformer`."""

    text_encoder: Any
    tokenizer: Any
    transformer: Any
    _execution_device: torch.device

    def encode_prompt(
        self,
        prompt: Prompt | None = None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Prompt | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        The conditions of both passes.

        Args:
            prompt (`str` or list of them, *optional*): what images show; or `prompt_embeds`.
            device (`torch.device`, *optional*): of the result; the pipeline's by default.
            num_images_per_prompt (`int`, defaults to 1): images for each prompt.
            do_classifier_free_guidance (`bool`, defaults to `True`): whether the second is needed.
            negative_prompt (`str` or list of them, *optional*): what guidance leads away from; by default the empty text,
                which stood for no caption in training.
            prompt_embeds (`torch.Tensor` of shape `(batch, context_length, context_dim)`, *optional*): states of the
                encoder, instead of `prompt`; `negative_prompt_embeds` the same for `negative_prompt`.

        Returns:
            States `[B, context_length, context_dim]`, `B = batch * num_images_per_prompt`, and those of the
            unconditional pass, or None.
        """
        device = device or self._execution_device
        if prompt_embeds is None:
            prompt_embeds = self._encode([prompt] if isinstance(prompt, str) else list(prompt or []), device)
        batch = len(prompt_embeds)
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            texts = negative_prompt or ""
            # One text for all is encoded once.
            encoded = self._encode([texts] if isinstance(texts, str) else list(texts), device)
            negative_prompt_embeds = encoded.expand(batch, -1, -1)
        dtype = self.transformer.dtype
        prompt_embeds = prompt_embeds.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
        if not do_classifier_free_guidance or negative_prompt_embeds is None:
            return prompt_embeds, None
        negative_prompt_embeds = negative_prompt_embeds.to(device, dtype)
        return prompt_embeds, negative_prompt_embeds.repeat_interleave(num_images_per_prompt, dim=0)

    def get_conditions(
        self, prompt: Prompt | None, device: torch.device, num_images_per_prompt: int, is_guided: bool, *args: Any
    ) -> tuple[Condition, Condition]:
        """`encode_prompt` as what the transformer is called with in the two passes; the second is empty if unguided."""
        states, null_states = self.encode_prompt(prompt, device, num_images_per_prompt, is_guided, *args)
        null_condition = {} if null_states is None else {"encoder_hidden_states": null_states}
        return {"encoder_hidden_states": states}, null_condition

    def _encode(self, texts: list[str], device: torch.device) -> torch.Tensor:
        """The encoder's last hidden states `[B, context_length, context_dim]`."""
        length = self.transformer.config.context_length
        self._warn_of_truncation(texts, length)
        return encode_texts(self.text_encoder, self.tokenizer, texts, length, device)

    def _warn_of_truncation(self, texts: list[str], length: int) -> None:
        for text in texts:
            ids = self.tokenizer(text, truncation=False, verbose=False).input_ids
            if len(ids) > length:
                kept = len(self.tokenizer(text, truncation=True, max_length=length).input_ids)
                end = self.tokenizer.num_special_tokens_to_add() - 1  # all but the one at the beginning
                cut = self.tokenizer.decode(ids[kept - end :], skip_special_tokens=True)
                logger.warning(f"the encoder takes {length} tokens, so this end of a prompt is left out: {cut!r}")

    def check_prompt(
        self,
        prompt: Prompt | None,
        negative_prompt: Prompt | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
    ) -> int:
        """The number of prompts; a ValueError that names what is wrong with them, before anything is computed."""
        config = self.transformer.config
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("give either `prompt` or `prompt_embeds`, and not both.")
        if prompt_embeds is None and (self.text_encoder is None or self.tokenizer is None):
            raise ValueError("the pipeline has no text_encoder and tokenizer for a prompt: give `prompt_embeds`.")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("give `negative_prompt` or `negative_prompt_embeds`, and not both.")
        for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if texts is None or isinstance(texts, str):
                continue
            if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{name} = {shortened(texts)} must be a text or a list of texts.")
            if not texts:
                raise ValueError(f"{name} is empty: give at least one text.")
        for name, states in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
            if states is None:
                continue
            wanted = (config.context_length, config.context_dim)
            if not isinstance(states, torch.Tensor) or states.ndim != 3 or tuple(states.shape[1:]) != wanted:
                found = list(states.shape) if isinstance(states, torch.Tensor) else shortened(states)
                raise ValueError(f"{name} must be states [batch, {wanted[0]}, {wanted[1]}], got {found}.")
        if prompt_embeds is not None:
            batch = len(prompt_embeds)
        else:
            batch = 1 if isinstance(prompt, str) else len(prompt or [])
        negatives = negative_prompt_embeds
        if negatives is None and not isinstance(negative_prompt, (str, type(None))):
            negatives = negative_prompt
        if negatives is not None and len(negatives) not in (1, batch):
            raise ValueError(f"{len(negatives)} negative prompts for {batch} prompts; give one, or one for each.")
        return batch
