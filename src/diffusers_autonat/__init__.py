"""Fast image generation with masked-token transformers whose strategies are searched, for Hugging Face diffusers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .public import *  # noqa: F403


# ruff: noqa: F405
__all__ = [
    "AdaptivePolicyModel",
    "AutoNATAmusedPipeline",
    "AutoNATInpaintPipeline",
    "AutoNATPipeline",
    "AutoNATTextToImagePipeline",
    "DilatedScheduler",
    "ENATTransformer2DModel",
    "EntropyBoundedScheduler",
    "EntropyStrategy",
    "GenerationStrategy",
    "HaltonScheduler",
    "NATScheduler",
    "NATSchedulerOutput",
    "RandomScheduler",
    "ReMDMScheduler",
    "ReMDMStrategy",
    "StepParameters",
    "TrainingStrategy",
    "UViTTransformer2DModel",
]


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package; imported when it is first asked for, since torch and diffusers take seconds
    and `diffusers-autonat --help` needs neither."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = import_module(f"{__name__}.public")
    if name not in __all__ and name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals().update({one: getattr(public, one) for one in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
