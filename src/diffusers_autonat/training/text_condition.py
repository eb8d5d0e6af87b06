"""Captions as what is on the images of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from diffusers import DiffusionPipeline, ModelMixin, VQModel
from diffusers.utils import make_image_grid
from PIL import Image

from ..cards import escape
from ..pipelines.pipeline_autonat_text_to_image import AutoNATTextToImagePipeline
from ..schedulers.scheduling_nat import NATScheduler
from .text_states import TextStates, number_captions
from .tokens import TokenSetInfo, collate_tokens


NUM_PROMPTS = 8  # of a grid of samples


@dataclass(frozen=True)
class TextCondition:
    """
    One of the captions of each image, as the states of a text encoder.

    Args:
        states: Of all texts; number 0 is the empty one, for no caption.
        dropout: Share of samples that get no caption, so that the model learns unconditional generation too.
        prompts: Shown as samples.
    """

    text_encoder: Any
    tokenizer: Any
    states: TextStates
    dropout: float = 0.15
    prompts: tuple[str, ...] = ()
    num_texts: int = 0

    tag, pipeline_tag = "text-conditional", "text-to-image"

    @classmethod
    def of(
        cls,
        tokens: Dataset,
        info: TokenSetInfo,
        text_encoder: Any,
        tokenizer: Any,
        context_length: int,
        folder: str | Path,
        dropout: float = 0.15,
        show_progress: bool = True,
    ) -> tuple[TextCondition, Dataset]:
        """
        That of a token set, and its rows as `collate` takes them.

        Args:
            text_encoder: On the device that is to encode; it returns to the CPU.
            folder: Of the token set; states are kept there.

        Raises:
            ValueError: There are no captions, or the encoder takes fewer tokens.
        """
        if info.caption_column is None:
            raise ValueError(
                f"the tokens in {folder} have no captions: tokenise the images anew with --caption_column."
            )
        longest = getattr(text_encoder.config, "max_position_embeddings", None) or context_length
        if context_length > longest:
            raise ValueError(
                f"context_length = {context_length} is more than the {longest} tokens of the text encoder."
            )
        rows, texts = number_captions(tokens)
        states = TextStates.of(texts, text_encoder, tokenizer, context_length, folder, show_progress)
        some = texts[1 :: max(1, (len(texts) - 1) // NUM_PROMPTS)][:NUM_PROMPTS] or [""]
        return cls(text_encoder.cpu(), tokenizer, states, dropout, tuple(some), len(texts) - 1), rows

    def __str__(self) -> str:
        return f"{self.num_texts:,} captions"

    @property
    def transformer_config(self) -> dict[str, Any]:
        length, width = self.states.size
        return {"context_dim": width, "context_length": length}

    @staticmethod
    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        """As `collate_tokens`; `caption_ids`, an array for each row, stay on the CPU, where the states are."""
        return collate_tokens(rows) | {"caption_ids": [row["caption_ids"] for row in rows]}

    def batch(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        ids = batch["caption_ids"]
        dropped, drawn = torch.rand(len(ids)) < self.dropout, torch.rand(len(ids))
        # Of several captions each is as likely.
        numbers = [
            0 if drop else int(own[int(share * len(own))])
            for own, drop, share in zip(ids, dropped.tolist(), drawn.tolist())
        ]
        return {"encoder_hidden_states": self.states[numbers].to(batch["input_ids"].device, torch.float32)}

    def pipeline(self, vqvae: VQModel, transformer: ModelMixin, scheduler: NATScheduler) -> AutoNATTextToImagePipeline:
        return AutoNATTextToImagePipeline(vqvae, transformer, scheduler, self.text_encoder, self.tokenizer)

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """Four images of each of the prompts, one prompt a column."""
        generator = torch.Generator().manual_seed(seed)
        images = pipeline(list(self.prompts) * 4, generator=generator).images
        return make_image_grid(images, rows=4, cols=len(self.prompts))

    def example(self, pipeline: DiffusionPipeline) -> str:
        return self.prompts[0]

    def card_section(self, pipeline: DiffusionPipeline) -> str:
        length, encoder = self.transformer_config["context_length"], type(self.text_encoder).__name__
        prompts = "; ".join(f"“{escape(prompt)}”" for prompt in self.prompts)
        return (
            f"## Prompts\n\nTexts of up to {length} tokens, encoded by the {encoder} that is part of the pipeline. The samples "
            f"show, from left to right: {prompts}."
        )
