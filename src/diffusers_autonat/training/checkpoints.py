"""Checkpoints: folders with all that a training needs to go on as if it had never stopped.

A folder holds one safetensors file for each part of the training (model, optimiser, average, ...), `state.json` with what
are no tensors, and `checkpoint.json` with the hash of every file. Nothing in it can run code, and no other file is read.
The state of random number generators is not in it: `seed_step` makes all randomness a function of the step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..files import whole_folder, write_json
from ..provenance import file_hash
from .prepared import plain_model


FORMAT = 1
MANIFEST, STATE = "checkpoint.json", "state.json"
OPTIONAL = "scaler"  # of fp16: a training may go on in another precision


class NotWhole(ValueError):
    """A checkpoint that lacks something, was changed, or is in no format that is read here."""


def checkpoint_step(folder: Path) -> int | None:
    """The step in the name `checkpoint-<step>`, or None where the folder has another name."""
    match = re.fullmatch(r"checkpoint-([0-9]{1,18})", folder.name)
    return int(match[1]) if match else None


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """`checkpoint-<step>` folders, oldest first. One that is still being written has another name."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if checkpoint_step(path) is not None]
    return sorted(folders, key=lambda path: checkpoint_step(path) or 0)


def check_resume(output_dir: str | Path, resume_from: str | None) -> None:
    """
    What can be said of `--resume_from_checkpoint` before anything is loaded.

    Raises:
        ValueError: it names no checkpoint folder, or it is not given and there are checkpoints of an earlier training.
    """
    folders = checkpoint_folders(output_dir)
    if resume_from is None and folders:
        raise ValueError(
            f"{folders[-1]} is of an earlier training: add --resume_from_checkpoint latest to go on with it, or name another "
            "--output_dir."
        )
    if resume_from not in (None, "latest"):
        folder = Path(resume_from)
        if not folder.is_dir() or checkpoint_step(folder) is None:
            raise ValueError(f"--resume_from_checkpoint {resume_from} is not a folder named checkpoint-<step>.")


class Unchanged:
    """A part of a training that is given anew each time, and has to be what it was: no tensors, but for instance a config.

    Args:
        values: As JSON can hold them; names that begin with `_` are not looked at.
    """

    def __init__(self, values: Mapping[str, Any]):
        public = {name: value for name, value in values.items() if not name.startswith("_")}
        self.values = json.loads(json.dumps(public))  # as they are read again

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state != self.values:
            raise ValueError("these are others")


class Checkpoints:
    """
    Writes and reads the checkpoints of one training. All methods are to be called by all processes.

    Args:
        output_dir: Where to.
        parts: What is kept, by name: anything with `state_dict` and `load_state_dict`. Models come as they were prepared.
        total_limit: So many are kept; the oldest go.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: str | Path,
        parts: Mapping[str, Any],
        total_limit: int | None = None,
    ):
        self.accelerator, self.output_dir, self.total_limit = accelerator, Path(output_dir), total_limit
        self.parts = {
            name: plain_model(accelerator, part) if isinstance(part, torch.nn.Module) else part
            for name, part in parts.items()
        }
        if accelerator.scaler is not None:
            self.parts[OPTIONAL] = accelerator.scaler

    def save(self, step: int) -> None:
        """Write `checkpoint-<step>` and prune the oldest; a kill at any moment leaves the earlier ones whole.

        Raises:
            ValueError: a weight, or what the optimiser keeps of it, is not finite; nothing is written then.
            OSError: it cannot be written; names the file.
        """
        writes = self.accelerator.is_main_process
        tensors: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.parts}
        states = {
            name: take_apart(part.state_dict(), tensors[name] if writes else None) for name, part in self.parts.items()
        }
        if writes:
            self._require_finite(tensors, step)
            final = self.output_dir / f"checkpoint-{step}"
            with whole_folder(final) as folder:
                for name, part in tensors.items():
                    try:
                        save_file(part, folder / f"{name}.safetensors")
                    except SafetensorError as error:
                        raise OSError(f"{final / name}.safetensors cannot be written: {error}") from error
                write_json(
                    folder / STATE, {"step": step, "processes": self.accelerator.num_processes, "parts": states}
                )
                files = {path.name: file_hash([path]) for path in sorted(folder.iterdir())}
                write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
                _remove(final)
            if self.total_limit is not None:
                earlier = [one for one in checkpoint_folders(self.output_dir) if (checkpoint_step(one) or 0) <= step]
                for one in earlier[: -self.total_limit]:
                    _remove(one)
        self.accelerator.wait_for_everyone()

    def _require_finite(self, tensors: Mapping[str, Mapping[str, torch.Tensor]], step: int) -> None:
        for part, named in tensors.items():
            for name, tensor in named.items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    whole = [one.name for one in checkpoint_folders(self.output_dir)]
                    raise ValueError(
                        f"{part} {name} is not finite at step {step}: nothing was saved"
                        + (f" after {whole[-1]}" if whole else "")
                        + "; lower --learning_rate, or train in bf16 or without --mixed_precision."
                    )

    def resume(self, resume_from: str | None, max_steps: int) -> int:
        """
        Restore `resume_from` ("latest", or a folder) and remove what a killed run has left half-written.

        Where the newest is not whole, "latest" is the newest whole one; which was passed over, and why, is said in one
        line, and it is set aside as `damaged-checkpoint-<step>`.

        Returns:
            Its step, or 0 where there is nothing to resume yet.

        Raises:
            ValueError: no checkpoint is whole, the folder is none, it belongs to another training, or nothing was asked
                for and there are checkpoints of an earlier training.
        """
        print_line, folders = self.accelerator.print, checkpoint_folders(self.output_dir)
        if self.accelerator.is_main_process:
            for leftover in self.output_dir.glob("partial-checkpoint-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        check_resume(self.output_dir, resume_from)
        if resume_from is None:
            return 0
        if resume_from == "latest":
            if not folders:
                print_line(f"No checkpoint in {self.output_dir} yet: starting from the beginning.")
                return 0
            folder, states, passed = self._newest_whole(folders)
            for damaged, reason in passed.items():
                print_line(f"{damaged} is passed over: {reason}.")
        else:
            folder, passed = Path(resume_from), {}
            try:
                states = read_checkpoint(folder)
            except NotWhole as error:
                raise ValueError(f"{folder} cannot be resumed: {error}; name another one, or 'latest'.") from error
        step = checkpoint_step(folder) or 0
        if step > max_steps:
            raise ValueError(
                f"{folder} is beyond the {max_steps} steps asked for: ask for more, or name an earlier one."
            )
        self._restore(folder, states)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            for damaged in passed:
                aside = damaged.with_name(f"damaged-{damaged.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(damaged, aside)
        print_line(f"Resumed from {folder}.")
        return step

    def _newest_whole(self, folders: list[Path]) -> tuple[Path, dict[str, Any], dict[Path, str]]:
        passed: dict[Path, str] = {}
        for folder in reversed(folders):
            try:
                return folder, read_checkpoint(folder), passed
            except NotWhole as error:
                passed[folder] = str(error)
        newest, reason = next(iter(passed.items()))
        raise ValueError(
            f"no checkpoint in {self.output_dir} can be resumed ({newest.name}: {reason}): start anew in another --output_dir"
            ", or, with checkpoints of an earlier release, go on with that one."
        )

    def _restore(self, folder: Path, state: dict[str, Any]) -> None:
        stored, wanted = set(state["parts"]) - {OPTIONAL}, set(self.parts) - {OPTIONAL}
        if stored != wanted:
            raise ValueError(
                f"{folder} holds {', '.join(sorted(stored))}; this training has {', '.join(sorted(wanted))}: repeat the options "
                "that it was made with."
            )
        if state["processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{folder} was made by {state['processes']} process(es), not {self.accelerator.num_processes}: the schedule of "
                "the learning rate and the order of the data depend on it; launch as many."
            )
        for name in self.parts.keys() & state["parts"].keys():
            try:
                _load(self.parts[name], state["parts"][name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{folder} holds another {name} than this training has: repeat the options that it was made with."
                ) from error


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """
    All of a checkpoint's state: `parts`, by name, as `load_state_dict` takes them, and `processes`.

    Raises:
        NotWhole: a file is missing or was changed, or the format is another; says which and how.
    """
    manifest = _read_json(folder / MANIFEST)
    if manifest is None:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".pkl", ".bin"))
        if pickles:
            raise NotWhole(f"it is of an earlier release, whose {pickles[0]} could run code and is not read")
        raise NotWhole(f"{MANIFEST} is missing or cut")
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise NotWhole(f"its format is {manifest.get('format')!r}, this release reads {FORMAT}")
    for name, digest in manifest["files"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise NotWhole(f"{path.name} is missing")
        if file_hash([path]) != digest:
            raise NotWhole(f"{path.name} is cut or changed")
    state = _read_json(folder / STATE)
    if state is None or state.get("step") != checkpoint_step(folder) or STATE not in manifest["files"]:
        raise NotWhole(f"{STATE} is not of this step")
    if not isinstance(state.get("parts"), dict) or "processes" not in state:
        raise NotWhole(f"{STATE} lacks parts or processes")
    parts = {}
    for name, rest in state["parts"].items():
        if not name.isidentifier() or f"{name}.safetensors" not in manifest["files"]:
            raise NotWhole(f"{name}.safetensors is missing")
        try:
            tensors = load_file(folder / f"{name}.safetensors")
        except SafetensorError as error:
            raise NotWhole(f"{name}.safetensors: {error}") from error
        parts[name] = put_together(rest, tensors)
    return state | {"parts": parts}


def take_apart(state: Any, tensors: dict[str, torch.Tensor] | None, name: str = "") -> Any:
    """
    A state of dicts, lists and scalars as JSON can hold it.

    Args:
        tensors: Gets its tensors, named by where they stood; None where another process writes them, which needs this one
            to gather those that are sharded.
    """
    if isinstance(state, torch.Tensor):
        if hasattr(state, "full_tensor"):  # sharded: every process gathers the whole
            state = state.full_tensor()
        if tensors is not None:
            tensors[name] = state.detach().cpu().contiguous()
        return None
    if isinstance(state, dict):
        return {str(key): take_apart(item, tensors, _below(name, key)) for key, item in state.items()}
    if isinstance(state, (list, tuple)):
        return [take_apart(item, tensors, _below(name, i)) for i, item in enumerate(state)]
    return state


def put_together(rest: Any, tensors: Mapping[str, torch.Tensor], name: str = "") -> Any:
    """The state that `take_apart` took apart, with lists for tuples; keys that are digits are numbers again."""
    if rest is None and name in tensors:
        return tensors[name].clone()  # not the file that safetensors maps into memory
    if isinstance(rest, dict):
        return {
            int(key) if key.isdecimal() else key: put_together(item, tensors, _below(name, key))
            for key, item in rest.items()
        }
    if isinstance(rest, list):
        return [put_together(item, tensors, _below(name, i)) for i, item in enumerate(rest)]
    return rest


def _below(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _load(part: Any, state: Any) -> None:
    """`part.load_state_dict`, with whole tensors sharded as those are that they replace."""
    if isinstance(part, torch.optim.Optimizer):
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        for i, values in state["state"].items():
            state["state"][i] = {key: _sharded_as(value, parameters[i]) for key, value in values.items()}
    elif isinstance(part, torch.nn.Module):
        own = part.state_dict()
        state = {name: _sharded_as(value, own.get(name)) for name, value in state.items()}
    part.load_state_dict(state)


def _sharded_as(value: Any, reference: Any) -> Any:
    if not hasattr(reference, "full_tensor") or value.shape != reference.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(reference.device), reference.device_mesh, reference.placements)


def _read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or it holds no dict."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _remove(folder: Path) -> None:
    """Under another name first, so that a kill leaves no half of a checkpoint."""
    if folder.exists():
        partial = folder.with_name(f"partial-{folder.name}-old")
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(folder, partial)
        shutil.rmtree(partial)
