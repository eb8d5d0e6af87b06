"""Checkpoints of a small training: bit-equal, whole or passed over, and unable to run code."""

import errno
import json
import os
import pickle
import shutil
import subprocess

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from diffusers_autonat.provenance import file_hash
from diffusers_autonat.training.checkpoints import (
    Checkpoints,
    check_resume,
    checkpoint_folders,
    put_together,
    take_apart,
)


class Training:
    """Two layers, AdamW, a schedule and averages, as the scripts put them together."""

    def __init__(self, output_dir, seed=0, width=3, total_limit=None, ema=True):
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        self.accelerator = Accelerator(cpu=True)
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, (0.9, 0.98))
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=10)
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(model, optimizer, schedule)
        parts = {"model": self.model, "optimizer": self.optimizer, "lr_scheduler": self.schedule}
        if ema:
            self.ema = parts["ema"] = EMAModel(self.model.parameters(), decay=0.9, use_ema_warmup=True, power=0.75)
        self.checkpoints = Checkpoints(self.accelerator, output_dir, parts, total_limit)

    def train(self, first, last, save=True):
        for step in range(first + 1, last + 1):
            torch.manual_seed(step)
            self.accelerator.backward(self.model(torch.randn(8, 4)).square().mean())
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.ema.step(self.model.parameters())
            if save:
                self.checkpoints.save(step)
        return self

    def tensors(self):
        tensors = {}
        for name, part in self.checkpoints.parts.items():
            take_apart({name: part.state_dict()}, tensors)
        return tensors


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def trained(tmp_path):
    Training(tmp_path).train(0, 3)
    return tmp_path


def resume(folder, resume_from="latest", max_steps=10, **changes):
    training = Training(folder, seed=1, **changes)
    return training, training.checkpoints.resume(resume_from, max_steps)


def test_states_come_back_as_they_were():
    state = {
        "state": {0: {"step": torch.tensor(3.0)}},
        "groups": [{"lr": 0.1 + 0.2, "foreach": None, "on": True}],
        "x": [],
    }
    tensors = {}
    rest = json.loads(json.dumps(take_apart(state, tensors)))
    assert set(tensors) == {"state.0.step"}
    again = put_together(rest, tensors)
    assert again["state"][0]["step"] == 3 and again["groups"] == state["groups"] and again["x"] == []


def test_a_resumed_training_is_the_unbroken_one_bit_by_bit(trained):
    unbroken = Training(trained / "other").train(0, 6, save=False)
    resumed, step = resume(trained)
    assert step == 3 and not same(resumed.tensors(), unbroken.tensors())
    resumed.train(3, 6)
    assert same(resumed.tensors(), unbroken.tensors())
    assert resumed.schedule.get_last_lr() == unbroken.schedule.get_last_lr()
    assert resumed.ema.optimization_step == 6


def test_what_is_loaded_does_not_change_with_the_file(trained):
    resumed, _ = resume(trained)
    before = {name: tensor.clone() for name, tensor in resumed.tensors().items()}
    for path in (trained / "checkpoint-3").glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    assert same(resumed.tensors(), before)


class Boom:
    """Runs when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", [
    "custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin", "scheduler.bin", "sampler.bin", "scaler.pt",
    "pytorch_model.bin", "optimizer.safetensors", "model.safetensors", "ema.safetensors", "state.json", "checkpoint.json",
])  # fmt: skip
def test_no_pickle_in_a_checkpoint_is_executed(trained, name, capsys):
    mark = trained / "executed"
    boom = pickle.dumps(Boom(mark))
    (trained / "checkpoint-3" / name).write_bytes(boom)
    _, step = resume(trained)
    assert not mark.exists()
    assert step == (2 if name.endswith(("safetensors", "json")) else 3)
    pickle.loads(boom)
    assert mark.exists()  # the pickle was a dangerous one


def test_only_safetensors_and_json_are_written(trained):
    names = {path.name for path in (trained / "checkpoint-3").iterdir()}
    assert names == {"checkpoint.json", "state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors",
                     "lr_scheduler.safetensors"}  # fmt: skip


def test_a_checkpoint_of_pickles_is_refused_by_name(tmp_path):
    training = Training(tmp_path).train(0, 1, save=False)
    training.accelerator.save_state(str(tmp_path / "checkpoint-1"))
    message = r"checkpoint-1: it is of an earlier release, whose optimizer.bin could run code.*start anew in another --output_dir"
    with pytest.raises(ValueError, match=message):
        resume(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint-1 cannot be resumed: it is of an earlier release"):
        resume(tmp_path, str(tmp_path / "checkpoint-1"))


def damage(folder, how):
    path = folder / how[1]
    if how[0] == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how[0] == "empty":
        os.truncate(path, 0)
    elif how[0] == "changed":
        data = bytearray(path.read_bytes())
        data[-10] ^= 1
        path.write_bytes(data)
    elif how[0] == "nested":
        path.write_text("[" * 100_000)
    else:
        path.unlink()


@pytest.mark.parametrize("how", [
    ("cut", "model.safetensors"), ("empty", "ema.safetensors"), ("changed", "optimizer.safetensors"),
    ("missing", "optimizer.safetensors"), ("cut", "checkpoint.json"), ("missing", "checkpoint.json"),
    ("nested", "checkpoint.json"), ("changed", "state.json"), ("nested", "state.json"), ("missing", "state.json"),
], ids=" ".join)  # fmt: skip
def test_the_newest_whole_checkpoint_is_resumed(trained, how, capsys):
    unbroken = Training(trained / "other").train(0, 4, save=False)
    damage(trained / "checkpoint-3", how)
    training, step = resume(trained)
    lines = capsys.readouterr().out.splitlines()
    assert step == 2 and len(lines) == 2
    assert "checkpoint-3 is passed over: " in lines[0] and how[1] in lines[0]
    assert lines[1] == f"Resumed from {trained / 'checkpoint-2'}."
    assert (trained / "damaged-checkpoint-3").is_dir() and not (trained / "checkpoint-3").exists()
    assert same(training.train(2, 4).tensors(), unbroken.tensors())


def test_a_renamed_checkpoint_is_not_of_that_step(trained):
    shutil.copytree(trained / "checkpoint-1", trained / "checkpoint-7")
    assert resume(trained)[1] == 3


def test_no_whole_checkpoint_is_one_line_with_the_remedy(trained):
    for folder in checkpoint_folders(trained):
        damage(folder, ("cut", "model.safetensors"))
    message = r"no checkpoint in .* \(checkpoint-3: model.safetensors is cut or changed\): start anew in another --output_dir"
    with pytest.raises(ValueError, match=message):
        resume(trained)
    with pytest.raises(
        ValueError, match=r"checkpoint-2 cannot be resumed: model.safetensors is cut or changed; name another"
    ):
        resume(trained, str(trained / "checkpoint-2"))


def test_a_state_that_names_files_elsewhere_is_not_followed(trained):
    save_file({"a": torch.ones(1)}, trained / "elsewhere.safetensors")
    path = trained / "checkpoint-3" / "state.json"
    state = json.loads(path.read_text())
    state["parts"]["../elsewhere"] = {"a": None}
    path.write_text(json.dumps(state))
    manifest = trained / "checkpoint-3" / "checkpoint.json"
    data = json.loads(manifest.read_text())
    data["files"]["state.json"] = file_hash([path])
    data["files"]["../elsewhere.safetensors"] = file_hash([trained / "elsewhere.safetensors"])
    manifest.write_text(json.dumps(data))
    assert resume(trained)[1] == 2


def test_leftovers_of_a_kill_are_removed(trained):
    for name in ("partial-checkpoint-4", "partial-checkpoint-1-old"):
        (trained / name).mkdir()
        (trained / name / "optimizer.bin").write_bytes(b"half")
    resume(trained)
    assert not list(trained.glob("partial-*"))


def test_a_fresh_start_is_refused_where_there_are_checkpoints(trained):
    with pytest.raises(
        ValueError, match="checkpoint-3 is of an earlier training: add --resume_from_checkpoint latest"
    ):
        check_resume(trained, None)
    with pytest.raises(ValueError, match="is not a folder named checkpoint-<step>"):
        check_resume(trained, str(trained))
    assert Training(trained / "new").checkpoints.resume("latest", 10) == 0


def test_the_limit_prunes_the_oldest_and_never_the_one_just_written(trained):
    training, _ = resume(trained, str(trained / "checkpoint-1"), total_limit=1)
    training.train(1, 2)
    assert [folder.name for folder in checkpoint_folders(trained)] == ["checkpoint-2", "checkpoint-3"]
    training.train(2, 4)
    assert [folder.name for folder in checkpoint_folders(trained)] == ["checkpoint-4"]


def test_what_is_no_checkpoint_is_not_counted(trained):
    (trained / "checkpoint-9-backup").mkdir()
    (trained / "checkpoint-x").mkdir()
    assert [folder.name for folder in checkpoint_folders(trained)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 5}, "checkpoint-3 holds another model than this training has: repeat the options"),
        (
            {"ema": False},
            "holds ema, lr_scheduler, model, optimizer; this training has lr_scheduler, model, optimizer",
        ),
        ({"max_steps": 2}, "checkpoint-3 is beyond the 2 steps asked for"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(trained, changes, message):
    with pytest.raises(ValueError, match=message):
        resume(trained, **changes)


def test_a_checkpoint_of_more_processes_is_refused(trained):
    training = Training(trained)
    state = {"parts": dict.fromkeys(training.checkpoints.parts), "processes": 2}
    with pytest.raises(ValueError, match=r"was made by 2 process\(es\), not 1"):
        training.checkpoints._restore(trained / "checkpoint-3", state)


@pytest.mark.parametrize(
    "part, name", [("model", "1.bias"), ("optimizer", "state.0.exp_avg_sq"), ("ema", "shadow_params.2")]
)
def test_what_is_not_finite_is_not_saved(trained, part, name):
    training, _ = resume(trained)
    training.tensors()[f"{part}.{name}"].view(-1)[0] = float("inf")
    with pytest.raises(
        ValueError, match=f"{part} {name} is not finite at step 4: nothing was saved after checkpoint-3; lower"
    ):
        training.checkpoints.save(4)
    assert [folder.name for folder in checkpoint_folders(trained)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert not list(trained.glob("partial-*"))


def test_a_failed_write_leaves_the_earlier_checkpoints(trained, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    training, _ = resume(trained, total_limit=1)
    monkeypatch.setattr("diffusers_autonat.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*checkpoint-4"):
        training.checkpoints.save(4)
    assert [folder.name for folder in checkpoint_folders(trained)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert not list(trained.glob("partial-*")) and resume(trained)[1] == 3


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted")
    try:
        training = Training(disk).train(0, 1)
        whole = load_file(disk / "checkpoint-1" / "model.safetensors")
        (disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - 8192)))
        with pytest.raises(OSError, match="(?i)checkpoint-2.*no space left|no space left.*checkpoint-2"):
            training.checkpoints.save(2)
        (disk / "ballast").unlink()
        assert same(load_file(disk / "checkpoint-1" / "model.safetensors"), whole) and resume(disk)[1] == 1
        training.checkpoints.save(2)
        assert [folder.name for folder in checkpoint_folders(disk)] == ["checkpoint-1", "checkpoint-2"]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)  # lazily: what was read may still be mapped


def test_sharded_weights_are_saved_whole_and_loaded_sharded(tmp_path):
    """FSDP 2 on one process: what it shards are DTensors, which safetensors does not know."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.fsdp import fully_shard

    def sharded(seed):
        torch.manual_seed(seed)
        model = fully_shard(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)), mesh=mesh)
        return model, torch.optim.AdamW(model.parameters(), 1e-2)

    def train(model, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [parameter.full_tensor() for parameter in model.parameters()]

    init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (1,))
        accelerator = Training(tmp_path).accelerator
        model, optimizer = sharded(0)
        train(model, optimizer, range(3))
        Checkpoints(accelerator, tmp_path, {"model": model, "optimizer": optimizer}).save(3)
        unbroken = train(model, optimizer, range(3, 5))
        again, its_optimizer = sharded(1)
        assert (
            Checkpoints(accelerator, tmp_path, {"model": again, "optimizer": its_optimizer}).resume("latest", 9) == 3
        )
        assert all(torch.equal(*pair) for pair in zip(train(again, its_optimizer, range(3, 5)), unbroken))
    finally:
        destroy_process_group()
