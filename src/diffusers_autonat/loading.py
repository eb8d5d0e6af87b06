"""A pipeline of this package from a folder or the Hub, whichever of the classes it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, VQModel
from huggingface_hub import is_offline_mode
from transformers import AutoConfig, AutoModelForTextEncoding, AutoTokenizer, CLIPTextModel
from transformers.utils import logging

from . import pipelines
from .pipelines import AutoNATInpaintPipeline, AutoNATPipeline, AutoNATTextToImagePipeline
from .pipelines.prompts import takes_prompts


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


def emulates_half(device: torch.device | str) -> bool:
    """Whether bfloat16 and float16 take several times as long as float32: on an x86 CPU without AVX512 or AVX-NE-CONVERT."""
    has = torch.cpu.get_capabilities()
    slow = has.get("architecture") == "x86_64" and not (has.get("avx512_bw") or has.get("avx_ne_convert"))
    return torch.device(device).type == "cpu" and slow


def warn_of_emulated(dtype: str, device: torch.device | str, remedy: str | None = None) -> None:
    """Warn of a dtype that takes several times as long as float32; by default one of `--dtype`, whose default is float32."""
    if dtype != "float32" and emulates_half(device):
        warnings.warn(
            f"this processor has no units for {dtype} and takes several times as long as in float32: "
            f"{remedy or f'leave --dtype {dtype} out'}.",
            stacklevel=2,
        )


@contextmanager
def _said_if_nowhere(name: str | Path, what: str) -> Iterator[None]:
    """What libraries say of a name that is neither a folder nor within reach on the Hub, in one line."""
    try:
        with warnings.catch_warnings():  # diffusers passes an argument that huggingface_hub ignores
            warnings.filterwarnings("ignore", "The `local_dir_use_symlinks`", UserWarning)
            yield
    except (OSError, ValueError) as error:  # the latter of what cannot be an id
        if Path(name).exists():
            raise
        why = " while HF_HUB_OFFLINE is set" if is_offline_mode() else ""
        raise ValueError(
            f"{name} is no folder of {what}, and none can be reached on the Hub by that id{why}."
        ) from error


def load_vqvae(name: str | Path, subfolder: str | None = None) -> VQModel:
    """The tokenizer of a folder or the Hub, in evaluation mode and without gradients.

    Raises:
        ValueError: There is no such tokenizer.
    """
    with _said_if_nowhere(name, "a VQModel"):
        vqvae = VQModel.from_pretrained(name, subfolder=subfolder)
    return vqvae.eval().requires_grad_(False)


def load_text_encoder(name: str, of_pipeline: bool = False) -> tuple[Any, Any]:
    """A text encoder and its tokenizer, from a folder or the Hub; `of_pipeline`: those of a pipeline.

    Raises:
        ValueError: There is no such text encoder.
    """
    encoder, tokenizer = ({"subfolder": part} if of_pipeline else {} for part in ("text_encoder", "tokenizer"))
    with _said_if_nowhere(name, "a text encoder"):
        config = AutoConfig.from_pretrained(name, **encoder)
    # A whole CLIP, images included, has a text model that is loaded alone.
    model_class = CLIPTextModel if config.model_type == "clip" else AutoModelForTextEncoding
    model = model_class.from_pretrained(name, **encoder)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(name, **tokenizer)


def load_pipeline(
    name: str | Path,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    text_encoder: str | None = None,
    to_generate: bool = True,
) -> Any:
    """
    Load the pipeline class that `model_index.json` names, as `from_pretrained` of that class does.

    Args:
        name: Folder, or id on the Hub.
        dtype: Of all components; by default as they are stored, in float32.
        device: Where to; by default it stays on the CPU.
        text_encoder: Folder or id of the text encoder, where the pipeline is saved without the one that it was trained with.
        to_generate: One that was saved for inpainting comes as the one that generates, from the same components.

    Raises:
        ValueError: There is no such pipeline, or it is not one of this package; says which classes are. Or a text encoder is
            given to one that has its own, or draws from classes.
    """
    folder = Path(name)
    if folder.exists() and not (folder / "model_index.json").exists():
        raise ValueError(f"{name} is no pipeline folder: it has no model_index.json. Name one that has.")
    with _said_if_nowhere(name, "a pipeline"):
        class_name = str(DiffusionPipeline.load_config(str(name)).get("_class_name"))
    if class_name not in pipelines.__all__:
        raise ValueError(f"{name} holds a {class_name}; the pipelines of this package are {pipelines.__all__}.")
    pipeline = getattr(pipelines, class_name).from_pretrained(name, **({} if dtype is None else {"dtype": dtype}))
    if to_generate and isinstance(pipeline, AutoNATInpaintPipeline):
        pipeline = (AutoNATTextToImagePipeline if pipeline.is_text_conditional else AutoNATPipeline).from_pipe(
            pipeline
        )
    if text_encoder is not None:
        add_text_encoder(pipeline, text_encoder, dtype)
    return pipeline if device is None else pipeline.to(device)


def add_text_encoder(pipeline: Any, name: str, dtype: torch.dtype | None = None) -> None:
    """Give a pipeline that draws from text, and is without one, the encoder of that name, in `dtype` (default: as stored).

    Raises:
        ValueError: It has its own, draws from classes, or was trained with another one.
    """
    if not takes_prompts(pipeline):
        raise ValueError(f"the pipeline draws from classes: leave the text encoder {name} out.")
    if pipeline.text_encoder is not None:
        raise ValueError(f"the pipeline has a text encoder: leave {name} out.")
    encoder, tokenizer = load_text_encoder(name)
    width, wanted = encoder.config.hidden_size, pipeline.transformer.config.context_dim
    if width != wanted:
        raise ValueError(
            f"the text encoder {name} has states of width {width}, and the transformer was trained on {wanted}."
        )
    pipeline.register_modules(text_encoder=encoder if dtype is None else encoder.to(dtype), tokenizer=tokenizer)
