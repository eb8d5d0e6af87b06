"""Images of captions: the prompts of pipelines that draw from text, such as those that a reference's images have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .conditions import Conditions, Requests
from .sources import find_label_column, open_dataset


if TYPE_CHECKING:
    from datasets import Dataset

# What data sets call their column of captions.
COLUMNS = ("caption", "captions", "text", "texts", "prompt", "prompts", "sentences")


class CaptionConditions(Conditions):
    """Image i is asked for by caption i; after the last the first follows.

    Args:
        captions: texts, at least one.
        source: what reports call them.
        class_labels: the class that each caption asks for, if a classifier is to say whether images are of it; and
            `num_classes`: how many classes there are.

    Raises:
        ValueError: there is none, or there are more or fewer classes.
    """

    def __init__(
        self,
        captions: Sequence[str],
        source: str = "memory",
        class_labels: Sequence[int] | None = None,
        num_classes: int | None = None,
    ):
        if not captions:
            raise ValueError(f"{source} holds no captions: give at least one.")
        if class_labels is not None and len(class_labels) != len(captions):
            raise ValueError(f"{len(captions)} captions need as many class_labels, not {len(class_labels)}.")
        self.captions, self.source, self.num_classes = tuple(captions), source, num_classes
        self.class_labels = None if class_labels is None else torch.tensor(class_labels)

    def requests(self, num_images: int, seed: int) -> Requests:
        turn = torch.arange(num_images) % len(self.captions)
        labels = None if self.class_labels is None else self.class_labels[turn]
        return Requests(num_images, {"prompt": [self.captions[i] for i in turn.tolist()]}, labels)

    @property
    def hash(self) -> str:
        """First digits of the SHA-256 of the captions in their order."""
        return hashlib.sha256("\0".join(self.captions).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        return {"captions": self.source, "captions_hash": self.hash, "num_captions": len(self.captions)}


def read_captions(source: str | Path, class_names: Sequence[str] | None = None) -> CaptionConditions:
    """Captions by name.

    Args:
        source: a text file with one caption in each line (`.txt`; empty lines are passed over), or a data set that has some,
            named as a reference is: a folder of images with `metadata.jsonl`, `FOLDER:SPLIT`, or `DATASET:SPLIT` on the
            Hub. Where an image has several captions the first is taken.
        class_names: of a classifier. Where the data set has a column of exactly these classes, in this order, they are what its
            captions ask for.

    Raises:
        ValueError: there are no captions by that name; says what to give.
    """
    path = Path(source)
    if path.suffix == ".npz":
        raise ValueError(
            f"{source} holds statistics and no captions: give the captions of its images, as `--captions FILE` with one in each "
            "line or the data set that it was made of."
        )
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{source} is no text in UTF-8: save it as one.") from None
        return CaptionConditions([line.strip() for line in lines if line.strip()], path.name)
    name, dataset = open_dataset(source)
    column = find_caption_column(dataset)
    texts = [text if isinstance(text, str) else next(iter(text or ()), None) for text in dataset[column]]
    if lacking := sum(not text for text in texts):
        raise ValueError(f"{lacking} of the {len(texts)} images of {name} have no caption in the column {column}.")
    label_column = find_label_column(dataset, class_names)
    labels, num_classes = (dataset[label_column][:], len(class_names or ())) if label_column else (None, None)
    return CaptionConditions([str(text) for text in texts], name, labels, num_classes)


def find_caption_column(dataset: Dataset) -> str:
    """Name of a data set's column of captions, texts or lists of texts: the first that is called so, or its only one.

    Raises:
        ValueError: it has none, or several of other names.
    """
    texts = [name for name, feature in (dataset.features or {}).items() if _is_text(feature)]
    if named := [name for name in COLUMNS if name in texts]:
        return named[0]
    if len(texts) == 1:
        return texts[0]
    raise ValueError(
        f"the data set has {'several columns of texts, ' + ', '.join(texts) if texts else 'no column of texts'}: call the one of "
        "captions `caption` or `text`, or give `--captions FILE` with one in each line."
    )


def _is_text(feature: Any) -> bool:
    feature = getattr(feature, "feature", feature)  # of a list
    return getattr(feature, "dtype", None) in ("string", "large_string")
