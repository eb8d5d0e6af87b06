"""Writes that a failure leaves undone."""

import errno
import json
import os

import pytest
from safetensors import SafetensorError

from diffusers_autonat.files import naming, whole_file, whole_folder, write_json


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "data.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("full disk")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_what_is_no_json_is_not_written(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "data.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file_whoever_writes(tmp_path):
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/data.json'") as error:
        with whole_file(tmp_path / "data.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left on device: 'weights'") as error, naming("weights"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(SafetensorError, match="HeaderTooSmall"), naming("weights"):
        raise SafetensorError("HeaderTooSmall")
    with pytest.raises(FileNotFoundError, match="absent"), naming("weights"):
        open(tmp_path / "absent")


def test_a_link_beside_the_file_is_not_written_through(tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / "data.json.partial").symlink_to(tmp_path / "other")
    write_json(tmp_path / "data.json", 1)
    assert (tmp_path / "other").read_text() == "mine" and not (tmp_path / "data.json").is_symlink()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(RuntimeError), whole_folder(path) as partial:
        (partial / "half").write_text("half")
        raise RuntimeError("full disk")
    assert not list(tmp_path.iterdir())
    with whole_folder(path) as partial:
        (partial / "unet").mkdir()
        (partial / "unet" / "config").write_text("1")
    assert [file.name for file in path.rglob("*")] == ["unet", "config"] and list(tmp_path.iterdir()) == [path]


def test_files_of_a_folder_that_is_there_are_replaced_when_all_are_written(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "mine").write_text("kept")
    (path / "config").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(path) as partial:
        (partial / "config").write_text("new")
        raise RuntimeError("full disk")
    assert (path / "config").read_text() == "old"
    with whole_folder(path) as partial:
        (partial / "config").write_text("new")
        (partial / "vae").mkdir()
        (partial / "vae" / "config").write_text("new")
    assert (path / "config").read_text() == (path / "vae" / "config").read_text() == "new"
    assert (path / "mine").read_text() == "kept" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path):
    for write in (whole_file, whole_folder):
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'data'}'"), write(tmp_path / "data"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_replaced_at_once(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    replaced = []
    monkeypatch.setattr("os.replace", lambda *paths: replaced.append([path.name for path in paths]))
    with whole_folder(tmp_path / "model") as partial:
        (partial / "config").write_text("1")
        (partial / "weights").write_text("1")
    assert replaced == [["partial-model", "model"]]
