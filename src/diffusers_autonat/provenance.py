"""What a number was made with: machine, versions, and hashes that tell one set of weights from another."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


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
    return f"{name}, {torch.get_num_threads()} threads"


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each package, Python's first."""
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def model_hash(model: torch.nn.Module) -> str:
    """First 16 digits of the SHA-256 of a model's weights, read as float32: equal for a copy in half precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def pipeline_hash(pipeline: Any) -> str:
    """First 16 digits of the SHA-256 of all weights of a pipeline, whatever its components, as they are stored."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if isinstance(component, torch.nn.Module):
            for key, tensor in sorted(component.state_dict().items()):
                digest.update(f"{name}.{key}".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
