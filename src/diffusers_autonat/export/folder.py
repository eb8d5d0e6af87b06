"""A pipeline to a folder whose transformer and decoder are graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..files import whole_folder
from ..loading import load_pipeline
from ..models.exported import ExportedMixin
from ..models.runtimes import require
from ..models.transformer_enat import ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from ..pipelines import AutoNATInpaintPipeline, AutoNATPipeline
from .formats import FORMATS, Inputs
from .graphs import trace_decoder, trace_transformer


CALLS, IMAGES = 4, 4  # that scales of int8 are found from: each call makes so many images


def export_pipeline(
    name: str | Path, output: str | Path, format: str, int8: bool = False, int8_decoder: bool = False,
    report: Callable[[str], Any] = print,
) -> None:  # fmt: skip
    """
    Write a pipeline whose transformer and decoder are graphs; scheduler, strategies, class names, text encoder and policy stay
    as they are. `from_pretrained`, and every command that takes a pipeline, load the folder as any other.

    The tokenizer of an inpainting pipeline reads images too, and stays as it is.

    Args:
        name: Folder, or id on the Hub. output: Folder to write. format: Of `FORMATS`.
        int8: Put the transformer's products in int8. int8_decoder: And the decoder's convolutions, where the format is
            calibrated. report: Told what is done.

    Raises:
        ValueError: A library is missing, or this pipeline cannot be exported so.
    """
    writer = FORMATS[format]
    in_int8 = {component for component, wanted in (("transformer", int8), ("vqvae", int8_decoder)) if wanted}
    for library in writer.libraries + (writer.int8_libraries if in_int8 else ()):
        require(library, writer.extra)
    pipe = load_pipeline(name, to_generate=False)
    _check(name, pipe)
    if in_int8 and writer.is_calibrated and pipe.transformer.config.context_dim is not None:
        raise ValueError(f"{name} draws from text, and int8 of {format} is calibrated on classes: take --format onnx.")
    if int8_decoder and not writer.is_calibrated:
        raise ValueError(f"int8 of a decoder is calibrated, and {format} is not: take --format openvino.")

    graphs = {"transformer": trace_transformer(pipe.transformer)}
    if pipe.vqvae is not None and not isinstance(pipe, AutoNATInpaintPipeline):
        graphs["vqvae"] = trace_decoder(pipe.vqvae, pipe.transformer.config.sample_size**2)
    elif int8_decoder:
        raise ValueError(f"{name} keeps its tokenizer, if any, in torch: leave --int8-decoder out.")
    seen: dict[str, list[Inputs]] = {component: [] for component in graphs}
    with whole_folder(output) as folder:
        for component, traced in graphs.items():
            report(f"exporting the {component}")
            place = folder / component
            place.mkdir()
            getattr(pipe, component).save_config(place)
            writer.write(traced, place)
            if component == "transformer" and in_int8 and writer.is_calibrated:
                seen = _inputs_seen(traced.runner.from_pretrained(place), pipe)
            if component in in_int8:
                report(f"finding int8 weights of the {component}")
                writer.to_int8(place, seen[component])
            pipe.register_modules(**{component: traced.runner.from_pretrained(place)})
        pipe.save_pretrained(folder)


def _check(name: str | Path, pipe: Any) -> None:
    if isinstance(pipe.transformer, ExportedMixin):
        raise ValueError(f"{name} is exported already: give the pipeline that it was made from.")
    if not isinstance(pipe.transformer, (UViTTransformer2DModel, ENATTransformer2DModel)):
        raise ValueError(
            f"{name} has a {type(pipe.transformer).__name__}: only U-ViT and ENAT transformers are exported."
        )


def _inputs_seen(transformer: Any, pipe: Any) -> dict[str, list[Inputs]]:
    """What a transformer's graph is given, step by step, while images of classes spread over all are drawn, and then a decoder's."""
    graph = transformer.graph
    seen: dict[str, list[Inputs]] = {"transformer": [], "vqvae": []}

    def record(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        seen["transformer"].append(inputs)
        return graph(**inputs)

    transformer.graph = record
    drawing = AutoNATPipeline(None, transformer, pipe.scheduler)
    drawing.set_progress_bar_config(disable=True)
    num_classes, images = transformer.config.num_classes, CALLS * IMAGES
    labels = [i * num_classes // images for i in range(images)]
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, IMAGES):
        drawn = drawing(labels[start : start + IMAGES], generator=generator, output_type="latent").images
        seen["vqvae"].append({"tokens": drawn})
    transformer.graph = graph
    return seen
