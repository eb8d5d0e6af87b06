"""Every container gives the same tensors, says what it leaves out, and is never executed."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file

from diffusers_autonat.conversion.checkpoint import read_checkpoint


WEIGHTS = {
    "blocks.0.norm.weight": torch.arange(3.0),
    "blocks.0.norm.bias": torch.ones(3),
    "positions": torch.arange(4),
}
OTHER = {name: tensor + 7 for name, tensor in WEIGHTS.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3), "step": 5}}, "param_groups": [{"lr": 4e-4}]}


def prefixed(prefix, weights=WEIGHTS):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def read(path, expected=WEIGHTS):
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == expected.keys()
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in expected.items())
    return checkpoint


@pytest.mark.parametrize(
    ("content", "left_out"),
    [
        (WEIGHTS, []),
        (prefixed("module."), []),
        ({"state_dict": WEIGHTS, "epoch": 3}, ["epoch (1 value)"]),
        ({"state_dict": prefixed("module.")}, []),
        ({"model": OTHER, "model_ema": WEIGHTS, "args": argparse.Namespace(lr=1.0)}, ["args (1 value)", "model (3 values)"]),
        ({"step": 5, "optimizer": OPTIMIZER, "nnet": OTHER, "nnet_ema": prefixed("module.")},
         ["step (1 value)", "optimizer (3 values)", "nnet (3 values)"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["pth", "ckpt"])
def test_pickles(tmp_path, content, left_out, suffix):
    torch.save(content, tmp_path / f"x.{suffix}")
    assert read(tmp_path / f"x.{suffix}").left_out == left_out


@pytest.mark.parametrize("content", [WEIGHTS, prefixed("module."), prefixed("nnet_ema.") | {"logits": torch.zeros(2)}])
def test_safetensors(tmp_path, content):
    save_file(content, tmp_path / "x.safetensors")
    checkpoint = read(tmp_path / "x.safetensors")
    assert checkpoint.left_out == (["logits (1 value)"] if "logits" in content else [])


def test_a_training_folder(tmp_path):
    folder = tmp_path / "285000.ckpt"
    folder.mkdir()
    for name, content in {"nnet": OTHER, "nnet_ema": prefixed("module."), "optimizer": OPTIMIZER, "step": 5}.items():
        torch.save(content, folder / f"{name}.pth")
    checkpoint = read(folder)
    assert checkpoint.path == folder / "nnet_ema.pth"
    assert checkpoint.left_out == ["285000.ckpt/nnet.pth", "285000.ckpt/optimizer.pth", "285000.ckpt/step.pth"]
    (folder / "nnet_ema.pth").unlink()
    read(folder, OTHER)


def test_a_name_that_only_begins_like_a_wrapper_stays(tmp_path):
    weights = {"modelling.weight": torch.ones(1), "norm.model.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "x.pth")
    read(tmp_path / "x.pth", weights)


def test_floats_become_float32_and_integers_stay(tmp_path):
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.long)}, tmp_path / "x.pth")
    tensors = read_checkpoint(tmp_path / "x.pth").tensors
    assert tensors["a"].dtype == torch.float32 and tensors["b"].dtype == torch.long


def test_the_hash_is_that_of_the_file(tmp_path):
    import hashlib

    torch.save(WEIGHTS, tmp_path / "x.pth")
    expected = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    assert read_checkpoint(tmp_path / "x.pth").sha256() == expected


class Evil:
    def __reduce__(self):
        return (open, ("made-by-evil", "w"))


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"model": WEIGHTS if save is torch.save else {}, "x": Evil()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth holds more than tensors .*refused \(io.open\)\. Where") as error:
        read_checkpoint(tmp_path / "x.pth")
    assert "\n" not in str(error.value) and not (tmp_path / "made-by-evil").exists()


def test_programs_are_refused_without_advice_to_run_them(tmp_path, recwarn):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pth"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    (tmp_path / "new.pth").write_bytes(pickle.dumps({"x": Evil()}, protocol=4))
    recwarn.clear()
    for name, met in {"script": "TorchScript", "module": "torch.nn.modules.linear.Linear", "new": "operand"}.items():
        with pytest.raises(ValueError, match=rf"{name}.pth holds more than tensors .*\(.*{met}.*\)") as error:
            read_checkpoint(tmp_path / f"{name}.pth")
        assert (
            "\n" not in str(error.value)
            and "weights_only" not in str(error.value)
            and "allowlist" not in str(error.value)
        )
    assert not recwarn.list


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_truncated_files(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(WEIGHTS, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for size in (0, 3, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(ValueError, match=name) as error:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)


def test_files_that_are_no_checkpoints(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    (tmp_path / "x.onnx").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in {"list.pth": "holds a list", "none.pth": "holds no tensors", "x.onnx": "the endings read are",
                          "empty": "no checkpoint files.*nnet_ema"}.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / name)
    with pytest.raises(OSError):
        read_checkpoint(tmp_path / "missing.pth")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is a folder of diffusers already"):
        read_checkpoint(tmp_path / "empty")
    torch.save(WEIGHTS, tmp_path / "empty" / "nnet.pth")  # a training folder may have such a file too
    read(tmp_path / "empty")
