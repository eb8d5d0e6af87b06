"""Writes that a failure leaves undone."""

import errno
import json

import pytest
from safetensors import SafetensorError

from diffusers_autonat.files import naming, whole_file, write_json


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


def test_a_full_disk_names_the_file(tmp_path):
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
