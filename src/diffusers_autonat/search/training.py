"""The search for a training strategy: transformers trained with a given p(r), in processes that a kill cannot waste."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.storages import BaseStorage
from optuna.study import Study

from ..cards import shown_path
from ..files import write_json
from ..strategies import TrainingStrategy
from .line_search import GreedyLineSearchSampler
from .spaces import GridParameter, suggest, training_strategy
from .study import open_study, run_study, wait_for_workers
from .workers import find_process, is_here, process_of


logger = logging.getLogger(__name__)

Train = Callable[[TrainingStrategy], Path]  # from p(r) to the folder of the trained pipeline
TrainingScore = Callable[[TrainingStrategy, optuna.Trial], float]  # which trains what it scores

RECORD = "candidate.json"  # in a candidate's folder: how it is trained, and whether it is done
LOG = "train.log"
LOCK = "candidate.lock"


def training_flags(strategy: TrainingStrategy) -> list[str]:
    """The arguments of training/train_autonat.py that mean this mask-ratio distribution."""
    flags = ["--mask_distribution", strategy.distribution]
    for flag, value in (("alpha", strategy.alpha), ("beta", strategy.beta), ("ratio", strategy.ratio)):
        if value is not None:
            flags += [f"--mask_{flag}", repr(float(value))]
    return flags


class CandidateTrainer:
    """Trains a pipeline for each p(r) it is asked for, once, and resumes what a kill interrupted.

    Each candidate has a folder of its own under `folder`, named after p(r): checkpoints, `train.log`, the pipeline. A
    candidate that is done is not trained again, by whichever search asks. A training that outlived its worker is
    waited for.

    Args:
        folder: Where the candidates are kept; all searches and workers that share them name the same one.
        script: training/train_autonat.py.
        arguments: Of the script: all but p(r), the output folder and resuming, which are set here.
        launcher: What starts it, such as `accelerate launch`; this Python by default.

    Raises:
        ValueError: there is no such script; the arguments name no data, or set what is set here; a candidate was
            trained with others.
        RuntimeError: a training failed; the message ends with what it printed last.
    """

    def __init__(self, folder: str | Path, script: str | Path, arguments: Sequence[str], launcher: Sequence[str] = ()):
        if not Path(script).is_file():
            raise ValueError(f"there is no training script {script}")
        names = [word.split("=")[0] for word in arguments]
        if own := [name for name in names if name.startswith(("--mask_", "--output_dir", "--resume_from"))]:
            raise ValueError(f"{own[0]} is set by the search: leave it out of the training's arguments")
        if not {"--train_data_dir", "--dataset_name"} & set(names):
            raise ValueError("the training's arguments name no data: after `--` give --train_data_dir and so on")
        self.folder = Path(folder)
        self.command = [*(launcher or [sys.executable]), str(script), *arguments]
        # What a candidate depends on; where script and interpreter lie is not part of it, so that both can move.
        self.recipe = [*launcher, *arguments]
        self.shown_recipe = list(map(shown_path, self.recipe))  # as results tell it to others

    def __call__(self, strategy: TrainingStrategy) -> Path:
        """The folder of the trained pipeline."""
        name = "-".join(str(part) for part in strategy.to_dict().values())
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):  # other searches and workers may ask for the same one, and wait for it here
            return self._train(folder, training_flags(strategy))

    def _train(self, folder: Path, flags: list[str]) -> Path:
        recipe = {"training": self.recipe, "p(r)": flags}
        _wait_for_orphan(_read_record(folder))
        record = _read_record(folder)
        if record and {key: record.get(key) for key in recipe} != recipe:
            raise ValueError(f"{folder} was trained with other arguments: {' '.join(record.get('training', []))}")
        if record and record["done"]:
            return folder / "pipeline"

        seconds = record.get("seconds", 0.0)
        start = time.time()
        arguments = [*self.command, *flags, "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
        with (folder / LOG).open("a") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            who = process_of(process.pid)
            write_json(folder / RECORD, {**recipe, "done": False, "seconds": seconds, "process": who})
            try:
                status = process.wait()
            except BaseException:  # interrupted: the training has its own checkpoints and need not go on
                _end(process)
                raise
        seconds += time.time() - start
        if status != 0:
            write_json(folder / RECORD, {**recipe, "done": False, "seconds": seconds})
            last = (folder / LOG).read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the training of {folder} failed with status {status}: {' '.join(last)}")
        write_json(folder / RECORD, {**recipe, "done": True, "seconds": round(seconds, 1)})
        return folder / "pipeline"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a training and all that it has begun, which a signal to the whole group may have ended already."""
    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        process.wait()


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    return json.loads(path.read_text()) if path.exists() else {}


def _wait_for_orphan(record: Mapping[str, Any]) -> None:
    """Two trainings must not write the same checkpoints: let one whose worker was killed finish first."""
    who = record.get("process")
    if who and is_here(who) and (process := find_process(who)) is not None:
        logger.info("waiting for a training that outlived its worker, process %d", who["pid"])
        process.wait()


def search_training(
    storage: BaseStorage,
    name: str,
    identity: Mapping[str, Any],
    score: TrainingScore,
    space: Mapping[str, GridParameter],
    progress: bool = True,
) -> Study:
    """The paper's line search over alpha and beta; call it again, anywhere, to resume or to help.

    Args:
        storage: From `open_storage`.
        name: Of the study.
        identity: What a candidate's value depends on, see `open_study`.
        score: From p(r) and its trial to the value, the lower the better; usually `Judge.training_score`.
        space: From `training_space`.
        progress: Show a bar.

    Returns:
        The finished study.
    """
    study = open_study(storage, name, identity, GreedyLineSearchSampler(space))

    def objective(trial: optuna.Trial) -> float:
        return score(training_strategy(suggest(trial, space)), trial)

    run_study(study, objective, None, progress)
    wait_for_workers(study)
    return study


def describe(strategy: TrainingStrategy) -> str:
    """A distribution's name in tables and plots."""
    if strategy.distribution == "beta":
        return f"Beta({strategy.alpha:g}, {strategy.beta:g})"
    return f"fixed {strategy.ratio:g}" if strategy.distribution == "fixed" else strategy.distribution
