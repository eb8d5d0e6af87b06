"""Reading the containers that weights are released in: `.pth`, `.ckpt`, `.safetensors`, and training folders."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..provenance import file_hash


# What a training checkpoint may call its weights, best first: the averaged ones are those to sample with. `module` is
# what data parallel training puts in front of every name.
_WEIGHTS = ("nnet_ema", "model_ema", "state_dict", "model", "nnet", "module")
_SUFFIXES = (".safetensors", ".pth", ".ckpt", ".pt")


@dataclass(frozen=True)
class Checkpoint:
    """
    Args:
        path: The file that was read.
        tensors: Names -> tensors, floating point ones in float32.
        left_out: What else the file or its folder holds, one line each.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    left_out: list[str]

    def sha256(self) -> str:
        """All 64 digits, as `sha256sum` prints them."""
        return file_hash([self.path])


def read_checkpoint(path: str | Path) -> Checkpoint:
    """
    Weights out of a file, or of a training folder with one file per object (`nnet_ema.pth`, `optimizer.pth`, ...).

    Nothing in a file is ever executed: pickles are read with `weights_only=True`.

    Raises:
        ValueError: The file is not a checkpoint, or wants to run code. OSError: It cannot be opened.
    """
    path = Path(path)
    left_out: list[str] = []
    if path.is_dir():
        path, left_out = _weights_in_folder(path)
    tensors, ignored = _select(_flatten(_read(path)))
    if not tensors:
        raise ValueError(f"{path} holds no tensors.")
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return Checkpoint(path, floats, left_out + ignored)


def _weights_in_folder(folder: Path) -> tuple[Path, list[str]]:
    files = {file.name: file for file in sorted(folder.iterdir()) if file.suffix in _SUFFIXES}
    for name in (stem + suffix for stem in _WEIGHTS for suffix in _SUFFIXES):
        if name in files:
            return files[name], [f"{folder.name}/{other}" for other in files if other != name]
    if any((folder / name).exists() for name in ("model_index.json", "config.json")):
        raise ValueError(f"{folder} is a folder of diffusers already: load it with from_pretrained.")
    raise ValueError(
        f"{folder} holds no weights: it has {sorted(files) or 'no checkpoint files'}, and a training folder has one of"
        f" {', '.join(_WEIGHTS[:-1])} ({', '.join(_SUFFIXES)}). Name the file itself."
    )


def _read(path: Path) -> Mapping[Any, Any]:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path} is not a checkpoint by its name; the endings read are {', '.join(_SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Training scripts store their arguments too. A Namespace holds values and does nothing when it is made.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever torch would warn of ends in an error below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a damaged file makes the readers raise is anything
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            # Only what was met: the rest of torch's message is advice to read the file unsafely.
            found = (
                re.search(pattern, str(error))
                for pattern in (r"(?<=GLOBAL )\S+", r"Unsupported \w+ \d+", "TorchScript")
            )
            met = next(filter(None, found), None)
            raise ValueError(
                f"{path} holds more than tensors and would have to run code to be read, which is refused"
                f"{f' ({met.group()})' if met else ''}. Where you trust it, load it and save its state dict alone."
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or not a checkpoint: {reason}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    return content


def _flatten(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names: `{"model": {"w": 1}}` -> `{"model.w": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _select(content: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of the best set of weights in `content`, with their bare names, and a summary of everything else."""
    ignored: Counter[str] = Counter(
        name.split(".")[0] for name, value in content.items() if not torch.is_tensor(value)
    )
    tensors = {name: value for name, value in content.items() if torch.is_tensor(value)}
    while wrapper := next((w for w in _WEIGHTS if any(name.startswith(f"{w}.") for name in tensors)), None):
        ignored.update(name.split(".")[0] for name in tensors if not name.startswith(f"{wrapper}."))
        tensors = {
            name.removeprefix(f"{wrapper}."): value
            for name, value in tensors.items()
            if name.startswith(f"{wrapper}.")
        }
    return tensors, [f"{name} ({count} value{'s' * (count > 1)})" for name, count in ignored.items()]
