"""What every command and script says of itself: each option with its default, the version, and errors with one status."""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_autonat.cli import main, make_parser
from diffusers_autonat.command_line import Parser
from diffusers_autonat.commands import scripts


ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("training", "search") for path in (ROOT / folder).glob("*.py"))
SCRIPTS = [path for path in FILES if path.read_text().startswith("#!")]  # others are what several scripts import


def parsers_in(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from parsers_in(one)


def parser_of(script, monkeypatch):
    """The parser that a script makes."""
    made = []

    def stop(self, *_):
        made.append(self)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [str(script)])
        patch.syspath_prepend(str(script.parent))
        with pytest.raises(SystemExit):
            runpy.run_path(str(script), run_name="__main__")
    return made[0]


@pytest.mark.parametrize("script", [None, *SCRIPTS], ids=lambda path: "cli" if path is None else path.stem)
def test_every_option_is_explained_with_its_default(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # nothing is broken into lines
    parser = make_parser() if script is None else parser_of(script, monkeypatch)
    silent, without_default = [], []
    for one in parsers_in(parser):
        for action in one._actions:
            if not action.option_strings:
                continue
            said = " ".join(one._get_formatter()._format_action(action).split())
            if not action.help:
                silent.append((one.prog, action.option_strings[0]))
            known = action.default not in (None, False, argparse.SUPPRESS, "", [], ())
            if known and "default" not in said:
                without_default.append((one.prog, action.option_strings[0], said))
            doubles = [word for word in said.split("{")[1:] if len(set(w := word.split("}")[0].split(","))) < len(w)]
            assert not doubles, said
    assert not silent and not without_default


@pytest.mark.parametrize(
    "command, name", [(command, name) for command in scripts.SCRIPTS for name in scripts.SCRIPTS[command][-1]]
)
def test_help_of_a_script_has_whole_commands_that_an_installed_package_has(command, name):
    """Lines that end in a backslash stay lines, and the examples are of the command, which takes them."""
    parser = scripts.script_parser(command, name)
    called = f"diffusers-autonat {command} {name}"
    text = parser.format_help()
    assert text.startswith(f"usage: {called} ") and not re.search(r"(training|search)/\w+\.py", text)
    examples = re.findall(rf"^    {called} ((?:.*\\\n)*.*)", text, re.MULTILINE)
    assert examples and not any(re.search(r"\S {8}--", example) for example in examples)
    for example in examples:
        words = shlex.split(example.replace("\\\n", ""))
        if "..." not in words:
            parser.parse_args(words[: words.index("--") if "--" in words else None])


def test_help_says_what_each_script_does(capsys):
    for command, (*_, known) in scripts.SCRIPTS.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert all(f"{name} {does}" in said for name, (_, does) in known.items())


def test_lists_and_per_cents_are_shown_as_they_are_typed(capsys):
    parser = Parser(prog="train")
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16], help="of 100%% of the levels")
    parser.add_argument("--name", default="50%", help="of it")
    parser.add_argument("--flag", action="store_true", help="on or off")
    text = parser.format_help()
    assert "of 100% of the levels (default: 8 16)" in text and "of it (default: 50%)" in text and "on or off\n" in text


def run(*words, **environment):
    names = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, env=os.environ | names | environment)


def test_commands_and_scripts_end_alike(tmp_path):
    """The same mistake, a pipeline that is not there: one line and status 2; with --verbose the traceback too."""
    command = (sys.executable, "-m", "diffusers_autonat.cli", "generate", "/nowhere", "--output", "x.png")
    script = (sys.executable, ROOT / "training" / "train_autonat.py", "--train_data_dir", tmp_path, "--vqvae", "/nowhere",
              "--output_dir", tmp_path / "out")  # fmt: skip
    for words, program in ((command, "diffusers-autonat"), (script, "train_autonat.py")):
        short = run(*words)
        assert short.returncode == 2 and "Traceback" not in short.stderr, short.stderr
        [line] = [line for line in short.stderr.splitlines() if line.startswith(f"{program}: ")]
        assert "/nowhere" in line
    long = run(*command, "--verbose")
    assert long.returncode == 1 and "Traceback" in long.stderr and "/nowhere" in long.stderr


def test_the_version_is_that_of_the_package(capsys):
    from importlib.metadata import version

    for words in (["--version"], ["generate", "--version"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert capsys.readouterr().out == f"diffusers-autonat {version('diffusers-autonat')}\n"


def test_nothing_is_written_into_the_working_folder_and_no_colour(tmp_path):
    """On a terminal, with NO_COLOR, a command that is told where to write leaves the folder it is called in empty."""
    import pty

    (tmp_path / "here").mkdir()
    words = [sys.executable, "-m", "diffusers_autonat.cli", "generate", ROOT / "model_cards" / "autonat-fashion-mnist",
             "--class-labels", "Bag", "--num-images", "1", "--heuristic", "cosine", "--num-inference-steps", "3",
             "--output", tmp_path / "out" / "bag.png"]  # fmt: skip
    terminal, end = pty.openpty()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "xterm-256color",
                                "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    process = subprocess.Popen(list(map(str, words)), cwd=tmp_path / "here", stdout=end, stderr=end, env=environment)
    os.close(end)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    assert process.wait() == 0, shown.decode()
    assert b"1 images in 3 steps, rows: Bag" in shown and b"\x1b[3" not in shown and b"\x1b[9" not in shown
    assert (tmp_path / "out" / "bag.png").exists() and not list((tmp_path / "here").iterdir())
