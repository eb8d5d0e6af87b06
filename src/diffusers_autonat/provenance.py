"""What a number was made with: machine, versions, and hashes that tell one set of weights from another."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


DIGITS = 16  # of a SHA-256 are enough to tell one set of weights from another


def hardware() -> str:
    """The accelerator's name, or the processor's and its number of threads."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each package, Python's first."""
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def file_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of files read one after another, all 64 digits: of one file, what `sha256sum` prints."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def array_hash(*arrays: np.ndarray) -> str:
    """First digits of the SHA-256 of arrays one after another."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:DIGITS]


def model_hash(model: torch.nn.Module) -> str:
    """First digits of the SHA-256 of a model's weights, read as float32: equal for a copy in half precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def pipeline_hash(pipeline: Any) -> str:
    """First digits of the SHA-256 of all weights of a pipeline, whatever its components, as they are stored."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if isinstance(component, torch.nn.Module):
            for key, tensor in sorted(component.state_dict().items()):
                digest.update(f"{name}.{key}".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
