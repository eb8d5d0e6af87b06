"""Writes that a failure leaves undone."""

import json

import pytest

from diffusers_autonat.files import whole_file, write_json


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
