"""Options that refuse nonsense, and errors in one line."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffusers_autonat.cli import main
from diffusers_autonat.command_line import (
    Parser,
    called_as,
    command_words,
    error_text,
    number,
    one_line_errors,
    positive,
    whole,
)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "", "1e3", "9" * 400, "²", "0x10", "1_000"])
def test_what_is_no_positive_number_is_refused(text, capsys):
    parser = Parser(prog="train")
    parser.add_argument("--steps", type=positive)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--steps", text])
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1
    assert line.startswith("train: argument --steps: ") and "is not a whole number of at least 1" in line


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "1.1", "-0.1", "much", ""])
def test_what_is_no_share_is_refused(text, capsys):
    parser = Parser()
    parser.add_argument("--share", type=number(0, 1))
    with pytest.raises(SystemExit):
        parser.parse_args([f"--share={text}"])
    assert "is not a finite number of at least 0 and at most 1" in capsys.readouterr().err


def test_what_is_lawful_is_read():
    assert (
        whole(0, 10)("10") == 10 and whole(-5)("-5") == -5 and number(0)("1e300") == 1e300 and number()("-2") == -2.0
    )


def errors(tmp_path):
    def open_missing():
        open(tmp_path / "missing")

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/file")

    def damaged():
        (tmp_path / "cut.safetensors").write_bytes(b"cut")
        load_file(tmp_path / "cut.safetensors")

    def several_lines():
        raise ValueError("one\n  two")

    def too_large():
        torch.empty(10**15)

    return {
        open_missing: "No such file or directory: .*/missing'?: name one that exists$",
        full: "No space left on device: '/a/file': free some space and run the same command again$",
        damaged: "a file of weights is damaged; fetch or make it again$",
        several_lines: "^one\\s+two$",
        too_large: "^not enough memory: take a smaller model or batch",
    }


@pytest.mark.parametrize("which", range(5))
def test_errors_of_the_user_are_one_line_with_the_remedy(tmp_path, which, capsys):
    raises, message = list(errors(tmp_path).items())[which]
    with pytest.raises(Exception) as error:
        raises()
    text = error_text(error.value)
    assert re.search(message, text), text
    with pytest.raises(SystemExit) as stopped, one_line_errors("train.py"):
        raises()
    assert stopped.value.code == 2 and capsys.readouterr().err == f"train.py: {text}\n"


def test_a_full_disk_in_safetensors_has_the_same_remedy():
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert error_text(error).endswith("(os error 28): free some space and run the same command again")


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    for fault in (TypeError("x"), RuntimeError("x"), KeyError("x")):
        assert error_text(fault) is None
        with pytest.raises(type(fault)), one_line_errors():
            raise fault
    monkeypatch.setenv("DIFFUSERS_AUTONAT_TRACEBACK", "1")
    with pytest.raises(ValueError), one_line_errors():
        raise ValueError("x")


@pytest.mark.parametrize(
    ("words", "what"),
    [(["--resolution", "no"], "argument --resolution: no is not"), ([], "Error no file named config.json")],
)
def test_a_script_is_called_as_the_user_has_called_it(words, what, tmp_path, capsys):
    words = ["train", "tokenize", "--vqvae", str(tmp_path), "--output_dir", str(tmp_path / "tokens"), *words]
    with pytest.raises(SystemExit):
        main(words)
    assert f"diffusers-autonat train tokenize: {what}" in capsys.readouterr().err


TRAINS = "from diffusers_autonat.command_line import command_words; print(*command_words())"


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize(
    ("called", "words"), [(["script.py"], ["python", "script.py"]), (["-m", "package.script"], ["python", "-m", "package.script"])]
)  # fmt: skip
def test_a_script_knows_how_it_was_started(called, words, launched, tmp_path):
    (tmp_path / "package").mkdir()
    for file in ("script.py", "package/script.py"):
        (tmp_path / file).write_text(TRAINS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "TORCHELASTIC"))}
    environment |= {"ACCELERATE_MIXED_PRECISION": "no"} if launched else {}
    command = [sys.executable, *called, "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    launcher = ["accelerate", "launch"] if launched else ["python"]
    assert done.stdout.split() == [*launcher, *words[1:], "--seed", "1"]


def test_a_command_knows_how_it_was_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_vqgan.py", "--seed", "1"])
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    with called_as("diffusers-autonat train vqgan"):
        assert command_words() == ["diffusers-autonat", "train", "vqgan", "--seed", "1"]
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        words = "accelerate launch -m diffusers_autonat.cli train vqgan --seed 1"
        assert command_words() == words.split()


def test_who_stops_reading_sees_no_complaint():
    command = [sys.executable, "-c", "from diffusers_autonat.cli import main; main(['completion', 'bash'])"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # long before there is something to read: a pipe would hold all of it
    assert process.stderr.read() == b"" and process.wait() == 128 + 13


def test_another_broken_pipe_is_an_error(capsys):
    with pytest.raises(SystemExit) as stopped, one_line_errors("train.py"):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    assert stopped.value.code == 2 and capsys.readouterr().err == "train.py: Broken pipe\n"
