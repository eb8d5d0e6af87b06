"""`diffusers-autonat train` and `diffusers-autonat search`: the scripts of `training/` and `search/`, wherever they lie."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from ..command_line import called_as, program_name


PACKAGE = Path(__file__).parents[1]
SCRIPTS = {  # command -> its folder, what it does, and its scripts by the name that the command has for them
    "train": ("training", "train", "train a tokenizer, a transformer, a policy or a judge", {
        "vqgan": "train_vqgan", "tokenize": "tokenize_images", "autonat": "train_autonat", "classifier": "train_classifier",
        "text-judge": "train_text_judge", "policy": "train_policy", "plot-policy": "plot_policy", "icons": "icons",
    }),
    "search": ("search", "search", "search strategies", {
        "generation": "search_generation", "training": "search_training", "alternating": "search_alternating",
        "experiments": "experiments",
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
    return next(
        f"diffusers-autonat {command} {word}"
        for command, (_, _, _, scripts) in SCRIPTS.items()
        for word, file in scripts.items()
        if file == script
    )


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
    path = script_path(folder, scripts[words[1]])
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


def register(commands) -> None:
    for name, (folder, _, does, scripts) in SCRIPTS.items():
        command = commands.add_parser(
            name, help=does, description=f"The scripts of {folder}/; `{name} SCRIPT --help` says more."
        )
        command.add_argument("script", choices=list(scripts), help="which of them")
        command.add_argument("words", nargs="*", metavar="...", help="options of the script")
        command.set_defaults(run=lambda args: None)
