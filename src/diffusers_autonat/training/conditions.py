"""What is on the images of a batch, as arguments of the transformer: the protocol, and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from datasets import Dataset
from diffusers import DiffusionPipeline, ModelMixin, VQModel
from diffusers.utils import make_image_grid
from PIL import Image

from ..cards import classes
from ..pipelines.pipeline_autonat import AutoNATPipeline
from ..schedulers.scheduling_nat import NATScheduler
from .tokens import TokenSetInfo, collate_tokens


class Condition(Protocol):
    """All that training has to know about a kind of condition; `str` of it is what the first line of output says."""

    @property
    def tag(self) -> str:
        """Of the card."""

    @property
    def pipeline_tag(self) -> str:
        """The Hub's task."""

    @property
    def transformer_config(self) -> dict[str, Any]:
        """What a transformer's config says about its condition."""

    @staticmethod
    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows of the token set to a batch: `input_ids` `[B, N]`, and what `batch` reads."""

    def batch(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Keyword arguments of the transformer for a batch; in some samples, drawn at random, those of no condition."""

    def pipeline(self, vqvae: VQModel, transformer: ModelMixin, scheduler: NATScheduler) -> DiffusionPipeline:
        """The pipeline that draws images on this condition."""

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """A grid of images that shows what was learned, the same noise for the same seed."""

    def example(self, pipeline: DiffusionPipeline) -> Any:
        """What to call the pipeline with."""

    def card_section(self, pipeline: DiffusionPipeline) -> str:
        """What the card says of it."""


@dataclass(frozen=True)
class ClassCondition:
    """
    A class for each image; those without a label are all of class 0.

    Args:
        num_classes: Real classes; the null class is `num_classes`.
        dropout: Share of samples that get the null class, so that the model learns unconditional generation too.
        id2label: Names of the classes, where they have some.
    """

    num_classes: int
    dropout: float = 0.15
    id2label: dict[int, str] | None = None

    tag, pipeline_tag = "class-conditional", "unconditional-image-generation"  # the latter is the Hub's for classes
    collate = staticmethod(collate_tokens)

    @classmethod
    def of(cls, tokens: Dataset, info: TokenSetInfo, dropout: float) -> ClassCondition:
        """That of a token set: as many classes as there are names, or labels, or one."""
        if info.label_names:
            return cls(len(info.label_names), dropout, dict(enumerate(info.label_names)))
        labelled = info.label_names is not None or tokens[0]["label"] >= 0
        return cls(int(max(tokens["label"])) + 1 if labelled else 1, dropout)

    def __str__(self) -> str:
        return f"{self.num_classes} classes"

    @property
    def transformer_config(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes}

    def batch(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        labels = batch["class_labels"].clamp(min=0)  # unlabelled images are one class
        return {"class_labels": drop_labels(labels, self.num_classes, self.dropout)}

    def pipeline(self, vqvae: VQModel, transformer: ModelMixin, scheduler: NATScheduler) -> AutoNATPipeline:
        return AutoNATPipeline(vqvae, transformer, scheduler, self.id2label)

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """Four images of each of the first ten classes, one class a column."""
        classes = list(range(min(10, self.num_classes)))
        generator = torch.Generator().manual_seed(seed)
        return make_image_grid(pipeline(classes * 4, generator=generator).images, rows=4, cols=len(classes))

    def example(self, pipeline: DiffusionPipeline) -> str | int:
        """What to call class 0: its name, where that stands for no other class."""
        name = (self.id2label or {}).get(0, "")
        try:
            return name if pipeline.get_label_ids(name) == [0] else 0
        except ValueError:
            return 0

    def card_section(self, pipeline: DiffusionPipeline) -> str:
        return classes(pipeline.id2label, self.num_classes)


def drop_labels(class_labels: torch.LongTensor, null_class: int, probability: float) -> torch.LongTensor:
    """Replace labels `[B]` by the null class at random, so that the model learns unconditional generation too."""
    dropped = torch.rand(len(class_labels), device=class_labels.device) < probability
    return class_labels.masked_fill(dropped, null_class)
