"""A pipeline of this package from a folder or the Hub, whichever of the classes it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import is_offline_mode
from transformers.utils import logging

from . import pipelines


@contextmanager
def without_report() -> Iterator[None]:
    """No table by transformers of the weights that a checkpoint lacks or a model does not use: who loads it says what that means."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_pipeline(name: str | Path, dtype: torch.dtype | None = None, device: str | None = None) -> Any:
    """
    Load the pipeline class that `model_index.json` names, as `from_pretrained` of that class does.

    Args:
        name: Folder, or id on the Hub.
        dtype: Of all components; by default as they are stored, in float32.
        device: Where to; by default it stays on the CPU.

    Raises:
        ValueError: There is no such pipeline, or it is not one of this package; says which classes are.
    """
    folder = Path(name)
    if folder.exists() and not (folder / "model_index.json").exists():
        raise ValueError(f"{name} is no pipeline folder: it has no model_index.json. Name one that has.")
    try:
        class_name = str(DiffusionPipeline.load_config(str(name)).get("_class_name"))
    except (OSError, ValueError) as error:
        if folder.exists():
            raise
        why = " while HF_HUB_OFFLINE is set" if is_offline_mode() else ""
        raise ValueError(
            f"{name} is no folder of a pipeline, and none can be reached on the Hub by that id{why}."
        ) from error
    if class_name not in pipelines.__all__:
        raise ValueError(f"{name} holds a {class_name}; the pipelines of this package are {pipelines.__all__}.")
    pipeline = getattr(pipelines, class_name).from_pretrained(name, **({} if dtype is None else {"dtype": dtype}))
    return pipeline if device is None else pipeline.to(device)
