"""The text tower of networks that pair images with texts: both in one space, so that they can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from ...loading import without_report
from ...provenance import model_hash
from .base import plain_float32
from .vision_model import checkpoint_folder


class TextTower(nn.Module):
    """What puts texts, and an extractor's features of images, into one space: the nearer, the better a text fits.

    Args:
        name: id on the Hub or local folder of a CLIP, or of what `train_text_judge.py` has made.
        text_encoder: for a network that stores none of its own, such as the latter; it has to be the one it was trained with.
        tokenizer: of the `text_encoder`.

    Attributes:
        widths: of an image's features, and of the common space.

    Raises:
        ValueError: the network has no text tower, or needs a text encoder that is not given.
    """

    def __init__(self, name: str | Path, text_encoder: Any = None, tokenizer: Any = None):
        super().__init__()
        folder = checkpoint_folder(str(name))
        with without_report():
            model, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if not (hasattr(model, "get_text_features") and hasattr(model, "visual_projection")):
            raise ValueError(
                f"{folder.name} has no text tower: take a CLIP, or train one on captions with train_text_judge.py."
            )
        if any(key.startswith("text_model.") for key in info["missing_keys"]):
            wanted = getattr(model.config, "text_encoder_hash", None)
            given = None if text_encoder is None else model_hash(text_encoder)
            if given is None or given != wanted:
                raise ValueError(
                    f"{folder.name} does not store the text encoder that it was trained with (hash {wanted}), and "
                    f"{'none' if given is None else f'another one ({given})'} is given: name that one with --text-encoder."
                )
            model.text_model = text_encoder
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(name))
        del model.vision_model  # an extractor has its own
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.widths = (model.visual_projection.in_features, model.visual_projection.out_features)
        self._known: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def embed_images(self, features: Tensor) -> Tensor:
        """Features `[B, D]` of images as vectors `[B, P]` of length one."""
        with plain_float32():
            return F.normalize(self.model.visual_projection(features.to(self.device, torch.float32)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Texts as vectors `[B, P]` of length one, on the CPU; each by itself and once, so that equal texts are equal."""
        for text in dict.fromkeys(texts):
            if text not in self._known:
                inputs = self.tokenizer(text, truncation=True, return_tensors="pt").to(self.device)
                with plain_float32():
                    features = self.model.get_text_features(**inputs).pooler_output
                self._known[text] = F.normalize(features.float(), dim=-1)[0].cpu()
        return torch.stack([self._known[text] for text in texts])
