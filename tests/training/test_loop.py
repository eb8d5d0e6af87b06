from pathlib import Path

import pytest
from PIL import Image

from diffusers_autonat.training.loop import MAX_SEED, History, save_picture, seed_step


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\xff\xfe", b"[" * 100_000, b'"text"', b"{}\n"])
def test_a_torn_history_is_read_up_to_the_tear(tmp_path, tail, capsys):
    path = tmp_path / "history.jsonl"
    history = History(path, 0, True)
    for step in (1, 2):
        history.append({"step": step, "loss": 0.5})
    with path.open("ab") as file:
        file.write(tail)
    assert [row["step"] for row in History.read(path)] == [1, 2]
    assert "history.jsonl: only its first 2 lines are whole" in capsys.readouterr().out
    history = History(path, 2, True)
    history.append({"step": 3, "loss": 0.25})
    assert [row["step"] for row in History.read(path)] == [1, 2, 3]
    assert History(path, 1, True) and len(path.read_text().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs the device that is always full")
def test_a_full_disk_names_the_history(tmp_path):
    history = History(tmp_path / "history.jsonl", 0, True)
    history.path = Path("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        history.append({"step": 1})


def test_a_picture_is_whole_or_not_there(tmp_path):
    save_picture(Image.new("L", (4, 4)), tmp_path / "samples" / "a.png")
    assert Image.open(tmp_path / "samples" / "a.png").size == (4, 4)
    with pytest.raises(Exception):
        save_picture(None, tmp_path / "b.png")
    assert not list(tmp_path.glob("b*"))


def test_every_seed_that_is_taken_seeds_a_step():
    seed_step(MAX_SEED, 10**9, 1000)
