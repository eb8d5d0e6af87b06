"""Graphs in files, and the libraries that run them: one class for each, found by its file's suffix."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch


STEM = "model"  # the file of a graph is `model.onnx` or `model.xml`, with its weights beside it


class Graph(Protocol):
    """What a saved graph is loaded as. It runs on the CPU, on as many threads as torch, and several threads may call it."""

    suffix: ClassVar[str]

    def __init__(self, path: Path, dtype: torch.dtype): ...

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs by name, in float32."""


def require(module: str, extra: str) -> Any:
    """An optional library, or a `ValueError` that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise ValueError(f'{missing} is not installed: pip install "diffusers-autonat[{extra}]"') from None


class OnnxGraph:
    """By ONNX Runtime, in float32 (whatever its weights are stored as)."""

    suffix: ClassVar[str] = ".onnx"

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32):
        if dtype != torch.float32:
            raise ValueError(
                f"{path} runs in float32, not in {dtype}: leave dtype out, or export with --format openvino, which has bfloat16."
            )
        onnxruntime = require("onnxruntime", "export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        return dict(zip(self.names, map(torch.from_numpy, self.session.run(self.names, arrays))))


class OpenVINOGraph:
    """By OpenVINO, whose products are in `dtype`: float32, or bfloat16 where the processor has it."""

    suffix: ClassVar[str] = ".xml"
    precisions = {torch.float32: "f32", torch.bfloat16: "bf16"}

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32):
        if dtype not in self.precisions:
            raise ValueError(f"{path} runs in float32 or bfloat16, not in {dtype}.")
        openvino = require("openvino", "openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": self.precisions[dtype], "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }  # fmt: skip
        self.compiled = openvino.Core().compile_model(path, "CPU", settings)
        self.names = [output.get_any_name() for output in self.compiled.outputs]

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        made = self.compiled.create_infer_request().infer(arrays)
        return {name: torch.from_numpy(made[name]) for name in self.names}


RUNTIMES = (OnnxGraph, OpenVINOGraph)


def load_graph(folder: Path, dtype: torch.dtype | None = None) -> Graph:
    """The graph in a folder.

    Raises:
        ValueError: There is none; its library is not installed; it does not run in that dtype.
    """
    for runtime in RUNTIMES:
        path = folder / f"{STEM}{runtime.suffix}"
        if path.exists():
            return runtime(path, dtype or torch.float32)
    wanted = " or ".join(f"{STEM}{runtime.suffix}" for runtime in RUNTIMES)
    raise ValueError(f"{folder} has no {wanted}: export the pipeline again.")
