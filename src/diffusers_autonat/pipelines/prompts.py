"""Prompts as the states of a text encoder: what a text-conditional transformer is given."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import logging

from ..messages import shown
from .first_step import FirstStep
from .guided import Condition


logger = logging.get_logger(__name__)

Prompt = str | Sequence[str]


@torch.no_grad()
def encode_texts(
    text_encoder: Any,
    tokenizer: Any,
    texts: list[str],
    context_length: int,
    device: torch.device,
    pad_token_id: int | None = None,
) -> torch.Tensor:
    """
    What a transformer is given of texts, in training as in a pipeline: the encoder's last hidden states
    `[B, context_length, context_dim]`. Longer texts are cut.

    Args:
        text_encoder ([`~transformers.PreTrainedModel`]): on `device`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): of the encoder.
        pad_token_id (`int`, *optional*): what shorter texts are padded with; by default the tokenizer's.
    """
    inputs = tokenizer(
        texts, padding="max_length", max_length=context_length, truncation=True, return_tensors="pt"
    ).to(device)
    ids, mask = inputs.input_ids, inputs.attention_mask
    if pad_token_id is not None:
        ids = ids.masked_fill(mask == 0, pad_token_id)
    # CLIP reads from left to right, so padding changes nothing before it, and it was trained without a mask.
    if text_encoder.config.model_type.startswith("clip"):
        return text_encoder(ids).last_hidden_state
    states = text_encoder(ids, attention_mask=mask).last_hidden_state
    return states * mask[..., None].to(states.dtype)  # what stands at padding means nothing


def takes_prompts(pipeline: Any) -> bool:
    """Whether a pipeline's images are asked for by prompts and not by classes."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    return "prompt" in parameters and "class_labels" not in parameters


class PromptMixin:
    """For pipelines with a `text_encoder`, a `tokenizer` and a text-conditional `transformer`."""

    config: Any
    text_encoder: Any
    tokenizer: Any
    transformer: Any
    _execution_device: torch.device

    @property
    def is_text_conditional(self) -> bool:
        """Whether its transformer takes texts and not classes."""
        return True

    def _register_padding(self, pad_token_id: int | None) -> None:
        """Keep with the pipeline what a saved tokenizer would make a special token, and so cut out of prompts."""
        if pad_token_id is not None:
            self.register_to_config(pad_token_id=pad_token_id)  # type: ignore[attr-defined]

    @property
    def components(self) -> dict[str, Any]:
        """What another pipeline is made of: `AutoNATInpaintPipeline(**pipe.components)`; the padding included."""
        padding = {"pad_token_id": self.config.pad_token_id} if "pad_token_id" in self.config else {}
        return super().components | padding  # type: ignore[misc]

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
        The conditions of both passes. A pipeline without a transformer encodes too: so many tokens as its tokenizer's
        `model_max_length` says, in the encoder's dtype.

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
        dtype = self.text_encoder.dtype if self.transformer is None else self.transformer.dtype
        batch = len(prompt_embeds)
        prompt_embeds = prompt_embeds.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
        if not do_classifier_free_guidance:
            negative_prompt_embeds = None
        else:
            if negative_prompt_embeds is None:
                if self.text_encoder is None:
                    raise ValueError(
                        "guidance needs `negative_prompt_embeds`: the pipeline has no text_encoder for a prompt."
                    )
                texts = negative_prompt or ""
                negative_prompt_embeds = self._encode([texts] if isinstance(texts, str) else list(texts), device)
            # One for all, or one for each.
            negative_prompt_embeds = negative_prompt_embeds.to(device, dtype).expand(batch, -1, -1)
            negative_prompt_embeds = negative_prompt_embeds.repeat_interleave(num_images_per_prompt, dim=0)
        return prompt_embeds, negative_prompt_embeds

    def get_conditions(
        self, prompt: Prompt | None, device: torch.device, num_images_per_prompt: int, is_guided: bool, *args: Any
    ) -> tuple[Condition, Condition]:
        """`encode_prompt` as what the transformer is called with in the two passes; the second is empty if unguided."""
        states, null_states = self.encode_prompt(prompt, device, num_images_per_prompt, is_guided, *args)
        null_condition = {} if null_states is None else {"encoder_hidden_states": null_states}
        return {"encoder_hidden_states": states}, null_condition

    def get_first_step(
        self,
        prompt: Prompt | None,
        negative_prompt: Prompt | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
    ) -> FirstStep:
        """Which prompts are the same, before `num_images_per_prompt`. States that are given are not looked at."""
        names, null_names = (
            [object() for _ in states]
            if states is not None
            else [texts]
            if isinstance(texts, str)
            else list(texts or [])
            for texts, states in ((prompt, prompt_embeds), (negative_prompt or "", negative_prompt_embeds))
        )
        return FirstStep(names, null_names, (self.transformer, self.text_encoder))

    def _encode(self, texts: list[str], device: torch.device) -> torch.Tensor:
        """The encoder's last hidden states `[B, context_length, context_dim]`."""
        bare = self.transformer is None
        length = self.tokenizer.model_max_length if bare else self.transformer.config.context_length
        self._warn_of_truncation(texts, length)
        padding = self.config.get("pad_token_id")
        return encode_texts(self.text_encoder, self.tokenizer, texts, length, device, padding)

    def _warn_of_truncation(self, texts: list[str], length: int) -> None:
        for text in texts:
            ids = self.tokenizer(text, truncation=False, verbose=False).input_ids
            if len(ids) > length:
                kept = self.tokenizer(text, truncation=True, max_length=length).input_ids
                # What is kept ends with special tokens, as many as the encoder has.
                first = next((i for i, (a, b) in enumerate(zip(ids, kept)) if a != b), len(kept))
                cut = self.tokenizer.decode(ids[first:], skip_special_tokens=True)
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
            raise ValueError(
                "the pipeline has no text_encoder and tokenizer for a prompt: load it with `text_encoder=` and `tokenizer=` "
                "(in the shell --text-encoder), or give `prompt_embeds`."
            )
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("give `negative_prompt` or `negative_prompt_embeds`, and not both.")
        for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if texts is None or isinstance(texts, str):
                continue
            if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{name} = {shown(texts)} must be a text or a list of texts.")
            if not texts:
                raise ValueError(f"{name} is empty: give at least one text.")
        for name, states in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
            if states is None:
                continue
            wanted = (config.context_length, config.context_dim)
            if not isinstance(states, torch.Tensor) or states.ndim != 3 or tuple(states.shape[1:]) != wanted:
                found = list(states.shape) if isinstance(states, torch.Tensor) else shown(states)
                raise ValueError(f"{name} must be states [batch, {wanted[0]}, {wanted[1]}], got {found}.")
            if not len(states):
                raise ValueError(f"{name} is empty: give the states of at least one text.")
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
