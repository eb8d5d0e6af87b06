import errno
import os
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
from diffusers import VQModel

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.training.checks import (
    forget_folder,
    require_finite,
    require_finite_weights,
    require_length,
    require_levels,
    require_memory,
    warn_of_codebook,
    warn_of_discriminator,
    warn_of_idle_cores,
    warn_of_no_discriminator,
    warn_of_slow_precision,
    warn_of_steps,
    writable_folder,
)
from tests.conftest import tiny_vqvae


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    assert writable_folder(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        writable_folder(tmp_path / "file")

    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(OSError, match=f"Read-only file system: '{tmp_path}'"):
        writable_folder(tmp_path)


def test_a_model_that_no_memory_holds_is_refused_before_it_is_built():
    state = torch.get_rng_state()
    sizes = {"sample_size": 7, "codebook_size": 16, "num_layers": 3, "num_attention_heads": 4, "num_classes": 4}
    require_memory(lambda: UViTTransformer2DModel(hidden_size=32, **sizes))
    with pytest.raises(
        ValueError, match="parameters, which take .* GiB with gradients and optimiser; there are .* GiB"
    ):
        require_memory(lambda: UViTTransformer2DModel(hidden_size=65536, **sizes))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_not_finite_stops_with_its_name_and_step():
    require_finite({"the loss": 1.0}, 3)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"the l1 loss is {value} at step 3: lower --learning_rate"):
            require_finite({"the loss": 1.0, "the l1 loss": value}, 3)
    model = torch.nn.Linear(2, 2)
    require_finite_weights(model, 5)
    model.bias.data[1] = float("-inf")
    with pytest.raises(ValueError, match="bias is not finite at step 5: nothing was saved"):
        require_finite_weights(model, 5)


def test_a_saved_model_does_not_tell_where_it_was_loaded_from(tmp_path):
    tiny_vqvae().save_pretrained(tmp_path / "mine")
    model = VQModel.from_pretrained(tmp_path / "mine")
    forget_folder(model)
    model.save_pretrained(tmp_path / "again")
    config = (tmp_path / "again" / "config.json").read_text()
    assert '"_name_or_path": "mine"' in config and str(tmp_path) not in config
    model.register_to_config(_name_or_path="someone/model")
    forget_folder(model)
    assert model.config._name_or_path == "someone/model"


def test_levels_that_do_not_fit_are_refused_with_what_does():
    require_levels(64, [32, 64, 64], 8)
    with pytest.raises(ValueError, match="--resolution 50 cannot be halved 4 times.*: take 48 or 64, or fewer levels"):
        require_levels(50, [8] * 5, 8)
    with pytest.raises(ValueError, match="take 16, or fewer"):
        require_levels(10, [8] * 5, 8)
    with pytest.raises(ValueError, match="--norm_num_groups 32 does not divide the 48 channels of a level: take 16"):
        require_levels(64, [32, 48, 64], 32)


def test_what_a_training_never_reaches_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_steps(2000, 100, 1e-3, 1000)
        warn_of_steps(2000, 0, 1e-3)
        warn_of_codebook(1024, 60_000, 49)
    with pytest.warns(UserWarning, match="the learning rate reaches 12% of 0.0004 only; take 30, or train longer"):
        warn_of_steps(610, 5000, 4e-4)
    with pytest.warns(UserWarning, match="the discriminator never joins; take 488"):
        warn_of_steps(610, 0, 4e-4, 10_000)
    with pytest.warns(
        UserWarning, match="--codebook_size 1024 is more than 650 images of 49 tokens can fill.*take 512"
    ):
        warn_of_codebook(1024, 650, 49)


def test_options_of_a_discriminator_that_there_is_none_of_are_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_no_discriminator(0.6, {"adversarial_start"})
        warn_of_no_discriminator(0.0, {"adversarial_weight", "learning_rate"})
    with pytest.warns(UserWarning, match="without effect: --adversarial_start, because --adversarial_weight is 0"):
        warn_of_no_discriminator(0.0, {"adversarial_start", "learning_rate"})


def test_a_preset_that_does_not_say_how_long_asks_for_it():
    require_length("small", ())
    require_length(None, ())
    require_length("paper", {"num_train_epochs"})
    with pytest.raises(ValueError, match="--preset paper does not say how long .*: give --max_train_steps or"):
        require_length("paper", {"resolution"})


def test_a_discriminator_without_an_opinion_is_warned_of():
    """By the losses of docs/training_runs.md, of a healthy one and of one that was not."""
    healthy = [0.98, 0.933, 0.9, 0.964, 0.961, 0.841, 0.985, 0.85, 0.938, 0.958]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_discriminator([1.0] * 9)
        warn_of_discriminator([1.0] * 20 + healthy)
    with pytest.warns(UserWarning, match="scores real images and reconstructions alike"):
        warn_of_discriminator(healthy + [1.001, 1.004, 1.003, 1.001, 1.013, 1.0, 1.001, 1.001, 1.004, 1.0])


@pytest.mark.parametrize("device, processes, threads, warned", [
    ("cpu", 1, 1, "1 of 4 cores.*num_cpu_threads_per_process 4"), ("cpu", 2, 1, "2 of 4 cores.*num_cpu_threads_per_process 2"),
    ("cpu", 1, 3, None), ("cpu", 4, 1, None), ("cuda", 1, 1, None),
])  # fmt: skip
def test_idle_cores_are_told(device, processes, threads, warned, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes, is_main_process=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_idle_cores(accelerator)
    assert [re.search(warned or "$^", str(warning.message)) is not None for warning in caught] == [True] * bool(warned)


@pytest.mark.parametrize("device, has, asked_for, precision, advice", [
    ("cpu", "avx512_bf16", None, "no", "--mixed_precision bf16"), ("cpu", "avx512_bf16", "no", "no", None),
    ("cpu", "avx512_bf16", None, "bf16", None), ("cpu", "avx2", None, "no", None), ("cuda", "avx512_bf16", None, "no", None),
    ("cpu", "avx2", "bf16", "bf16", "--mixed_precision no"), ("cpu", "avx2", None, "bf16", "--mixed_precision no"),
    ("cuda", "avx2", "bf16", "bf16", None),
])  # fmt: skip
def test_the_slower_precision_is_told(device, has, asked_for, precision, advice, monkeypatch):
    capabilities = {"architecture": "x86_64", "avx512_bw": has == "avx512_bf16", has: True}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    accelerator = SimpleNamespace(device=torch.device(device), mixed_precision=precision, is_main_process=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_slow_precision(accelerator, asked_for)
    assert [str(advice) in str(warning.message) for warning in caught] == [True] * (advice is not None)
