"""A pipeline to a folder whose transformer and decoder are graphs."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..files import whole_folder
from ..loading import load_pipeline
from ..models.runtimes import STEM, require
from ..models.transformer_enat import ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from .graphs import TracedModel, trace_decoder, trace_transformer


@torch.no_grad()
def write_onnx(traced: TracedModel, folder: Path) -> None:
    """`model.onnx` and its weights, `model.onnx.data`."""
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter tells its stages
        warnings.simplefilter("ignore")
        torch.onnx.export(
            traced.module.eval(), (), folder / f"{STEM}.onnx", kwargs=traced.inputs, dynamo=True, verbose=False,
            input_names=list(traced.inputs), output_names=list(traced.outputs), dynamic_shapes=traced.dynamic_shapes,
        )  # fmt: skip


def write_openvino(traced: TracedModel, folder: Path) -> None:
    """`model.xml` and its weights, `model.bin`; by way of ONNX."""
    openvino = require("openvino", "openvino")
    write_onnx(traced, folder)
    openvino.save_model(openvino.convert_model(folder / f"{STEM}.onnx"), folder / f"{STEM}.xml", compress_to_fp16=False)
    for path in folder.glob(f"{STEM}.onnx*"):
        path.unlink()


FORMATS: dict[str, Callable[[TracedModel, Path], None]] = {"onnx": write_onnx, "openvino": write_openvino}


def export_pipeline(name: str | Path, output: str | Path, format: str, report: Callable[[str], Any] = print) -> None:
    """
    Write a pipeline whose transformer and decoder are graphs; scheduler, strategies, class names, text encoder and policy stay
    as they are. `from_pretrained`, and every command that takes a pipeline, load the folder as any other.

    Args:
        name: Folder, or id on the Hub. output: Folder to write. format: Of `FORMATS`.

    Raises:
        ValueError: A library is missing, or the transformer is of a class that cannot be exported.
    """
    for library in ("onnx", "onnxscript", {"onnx": "onnxruntime"}.get(format, format)):
        require(library, format)
    pipe = load_pipeline(name)
    for component in (pipe.transformer, pipe.vqvae):
        if hasattr(component, "graph"):
            raise ValueError(f"{name} is exported already: give the pipeline that it was made from.")
    if not isinstance(pipe.transformer, (UViTTransformer2DModel, ENATTransformer2DModel)):
        raise ValueError(f"{name} has a {type(pipe.transformer).__name__}: only U-ViT and ENAT transformers are exported.")
    graphs = {"transformer": trace_transformer(pipe.transformer)}
    if pipe.vqvae is not None:
        graphs["vqvae"] = trace_decoder(pipe.vqvae, pipe.transformer.config.sample_size**2)
    with whole_folder(output) as folder:
        for component, traced in graphs.items():
            report(f"exporting the {component}")
            place = folder / component
            place.mkdir()
            getattr(pipe, component).save_config(place)
            FORMATS[format](traced, place)
            pipe.register_modules(**{component: traced.runner.from_pretrained(place)})
        pipe.save_pretrained(folder)
