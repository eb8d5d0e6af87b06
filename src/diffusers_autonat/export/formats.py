"""A traced model in a file of ONNX or of OpenVINO, and its products in int8."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from ..models.runtimes import STEM, require
from .graphs import TracedModel


Inputs = dict[str, torch.Tensor]


class Format(Protocol):
    """How a graph is written.

    Args:
        extra: Of the package, that installs what it takes.
        libraries: Without which nothing can be written or run. int8_libraries: Those of `to_int8`.
        is_calibrated: Whether `to_int8` looks at inputs.
    """

    extra: str
    libraries: tuple[str, ...]
    int8_libraries: tuple[str, ...]
    is_calibrated: bool

    def write(self, traced: TracedModel, folder: Path) -> None:
        """Write the graph into a folder, in float32."""

    def to_int8(self, folder: Path, inputs: list[Inputs]) -> None:
        """Put int8 weights and products in place of a graph's float32 ones."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries tell of every stage and of what is not installed; errors still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class OnnxFormat:
    """`model.onnx`, its weights in `model.onnx.data`."""

    extra = "export"
    libraries: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
    int8_libraries: tuple[str, ...] = ("onnxruntime",)
    is_calibrated = False

    @torch.no_grad()
    def write(self, traced: TracedModel, folder: Path) -> None:
        with quiet():
            torch.onnx.export(
                traced.module.eval(), (), folder / f"{STEM}.onnx", kwargs=traced.inputs, dynamo=True, verbose=False,
                input_names=list(traced.inputs), output_names=list(traced.outputs), dynamic_shapes=traced.dynamic_shapes,
            )  # fmt: skip

    def to_int8(self, folder: Path, inputs: list[Inputs]) -> None:
        """Weights with a scale for each channel; inputs of products with one for each call, found when it is made."""
        quantization = require("onnxruntime.quantization", self.extra)
        plain, whole = folder / f"{STEM}.onnx", folder / "float.onnx"
        # The weights' file is named within the graph, so it is written anew beside it.
        onnx = require("onnx", self.extra)
        model = onnx.load(plain)
        # Shapes that are told and inferred otherwise are an error for ONNX Runtime up to 1.30.
        del model.graph.value_info[:]
        onnx.save(model, whole, save_as_external_data=True, location="float.onnx.data")
        for path in folder.glob(f"{STEM}.onnx*"):
            path.unlink()
        with quiet():
            quantization.quantize_dynamic(
                whole, plain, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                weight_type=quantization.QuantType.QInt8, use_external_data_format=True,
            )  # fmt: skip
        for path in folder.glob("float.onnx*"):
            path.unlink()


class OpenVINOFormat:
    """`model.xml`, its weights in `model.bin`; by way of ONNX."""

    extra = "openvino"
    libraries: tuple[str, ...] = ("onnx", "onnxscript", "openvino")
    int8_libraries: tuple[str, ...] = ("nncf",)
    is_calibrated = True

    def write(self, traced: TracedModel, folder: Path) -> None:
        OnnxFormat().write(traced, folder)
        openvino = require("openvino", self.extra)
        self._save(openvino.convert_model(folder / f"{STEM}.onnx"), folder)
        for path in folder.glob(f"{STEM}.onnx*"):
            path.unlink()

    def to_int8(self, folder: Path, inputs: list[Inputs]) -> None:
        """Weights and inputs of products with scales that are found now, from what passes in real calls."""
        nncf, openvino = require("nncf", self.extra), require("openvino", self.extra)
        arrays = [{name: tensor.contiguous().numpy() for name, tensor in one.items()} for one in inputs]
        with quiet():
            quantized = nncf.quantize(
                openvino.Core().read_model(folder / f"{STEM}.xml"), nncf.Dataset(arrays), subset_size=len(arrays),
                model_type=nncf.ModelType.TRANSFORMER,
            )  # fmt: skip
        for path in folder.glob(f"{STEM}.*"):
            path.unlink()  # the model that was read is still mapped from the old file
        self._save(quantized, folder)

    def _save(self, graph, folder: Path) -> None:
        require("openvino", self.extra).save_model(graph, folder / f"{STEM}.xml", compress_to_fp16=False)


FORMATS: dict[str, Format] = {"onnx": OnnxFormat(), "openvino": OpenVINOFormat()}
