"""`diffusers-autonat train` and `diffusers-autonat search`: the scripts of `training/` and `search/`, wherever they lie."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

from ..command_line import called_as, program_name


PACKAGE = Path(__file__).parents[1]
SCRIPTS = {  # command -> its folder, its extra, what it does, and by the name that the command has for them its scripts: file, help
    "train": ("training", "train", "train a tokenizer, a transformer, a policy or a judge", {
        "vqgan": ("train_vqgan", "train the tokenizer"),
        "tokenize": ("tokenize_images", "turn images into a token set, which `autonat` takes"),
        "autonat": ("train_autonat", "train the transformer, or an adapter (LoRA) to one, and save a pipeline"),
        "classifier": ("train_classifier", "train a small classifier: the judge of the evaluation, or a perceptual network"),
        "text-judge": ("train_text_judge", "train a network that says which caption an image shows"),
        "policy": ("train_policy", "train a policy that sets the parameters of each step image by image"),
        "plot-policy": ("plot_policy", "draw what a policy does"),
        "icons": ("icons", "render icons of several drawing styles into a captioned data set"),
    }),
    "search": ("search", "search", "search strategies", {
        "generation": ("search_generation", "search the schedules of a pipeline: r, tau1, tau2 and s of each step"),
        "training": ("search_training", "search p(r), by which mask ratios are drawn in training"),
        "alternating": ("search_alternating", "search both in turn"),
        "experiments": ("experiments", "the studies behind docs/search_results.md"),
    }),
}  # fmt: skip


def script_path(folder: str, name: str) -> Path:
    """
    The file of a script: in the installed package, or in the repository that this is a part of.

    Raises:
        ValueError: It is in neither.
    """
    for scripts in (PACKAGE / "scripts", PACKAGE.parents[1]):
        path = scripts / folder / f"{name}.py"
        if path.is_file():
            return path
    raise ValueError(
        f"{folder}/{name}.py is not installed: install the package again, from a wheel or its repository."
    )


def script_name(script: str) -> str:
    """How to call another script as who runs this one has called it: `diffusers-autonat train tokenize`, or by its file."""
    if not program_name().startswith("diffusers-autonat "):
        return f"{script}.py"
    [called] = [
        f"diffusers-autonat {command} {word}"
        for command, (*_, scripts) in SCRIPTS.items()
        for word, (file, _) in scripts.items()
        if file == script
    ]
    return called


def run_script(words: list[str]) -> bool:
    """
    Run a script where the words of a command line name one, as `python FILE WORDS` does; False where they name none.

    What stands behind its name is the script's, `--help` and `--` included, so argparse must not see it.

    Raises:
        ValueError: a package that the script needs is not installed; says which extra has it.
    """
    if len(words) < 2 or words[0] not in SCRIPTS or words[1] not in SCRIPTS[words[0]][-1]:
        return False
    folder, extra, _, scripts = SCRIPTS[words[0]]
    path = script_path(folder, scripts[words[1]][0])
    before = sys.argv, sys.path[:]
    sys.argv = [str(path), *words[2:]]
    sys.path.insert(0, str(path.parent))  # where it finds its neighbours
    try:
        with called_as(f"diffusers-autonat {words[0]} {words[1]}"):
            runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("diffusers_autonat", "arguments"):
            raise
        raise ValueError(f'this needs {error.name}: pip install "diffusers-autonat[{extra}]"') from error
    finally:
        sys.argv, sys.path[:] = before
    return True


def script_parser(command: str, name: str) -> argparse.ArgumentParser:
    """
    The parser that a script makes, for which it runs until it parses.

    Raises:
        ValueError: as `run_script` does.
    """
    made = []

    def stop(parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        made.append(parser)
        raise SystemExit

    parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, stop  # type: ignore[method-assign, assignment]
    try:
        run_script([command, name])
    except SystemExit:
        pass
    finally:
        argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]
    return made[0]


def add_options(commands) -> None:
    """Give the commands of `register` the options of their scripts, but for those whose extra is not installed; takes seconds."""
    for name, (*_, scripts) in SCRIPTS.items():
        known = commands.choices[name].get_default("scripts").choices
        for script in scripts:
            try:
                known[script] = script_parser(name, script)
            except ValueError:
                pass


def register(commands) -> None:
    for name, (*_, does, scripts) in SCRIPTS.items():
        command = commands.add_parser(name, help=does, description=f"`{name} SCRIPT --help` shows a script's options.")
        known = command.add_subparsers(required=True, metavar="SCRIPT")
        command.set_defaults(scripts=known)
        for script, (_, what) in scripts.items():
            # Where argparse sees a script at all, something stood before the command: `--verbose train vqgan`.
            known.add_parser(script, help=what).set_defaults(run=lambda _, words=[name, script]: run_script(words))
