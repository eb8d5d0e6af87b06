"""The training search with a stand-in for the training script, which counts steps and remembers them."""

import json
import multiprocessing
import os
import signal
import threading
import time

import optuna
import psutil
import pytest

from diffusers_autonat import TrainingStrategy
from diffusers_autonat.search import CandidateTrainer, open_storage, score_candidates, search_training, training_space
from diffusers_autonat.search.training import describe, training_flags


SCRIPT = """
import sys, time
from pathlib import Path
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(words["--output_dir"])
if words.get("--mask_alpha") == "13.0":
    sys.exit("the loss is nan at step 2")
steps = folder / "steps"
for step in range(len(steps.read_text()) if steps.exists() else 0, 10):
    time.sleep(float(words["--pause"]))
    with steps.open("a") as file:
        file.write("x")
(folder / "pipeline").mkdir(exist_ok=True)
(folder / "pipeline" / "p(r)").write_text(words["--mask_distribution"] + " " + words.get("--mask_alpha", ""))
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path / "train.py"


def trainer_of(script, pause="0"):
    arguments = ["--train_data_dir", "x", "--pause", pause]
    return CandidateTrainer(script.parent / "candidates", script, arguments)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_a_candidate_is_trained_once(script):
    trainer = trainer_of(script)
    folder = trainer(TrainingStrategy(12, 3))
    assert (folder / "p(r)").read_text() == "beta 12.0"
    changed = (folder / "p(r)").stat().st_mtime_ns
    assert trainer(TrainingStrategy(12, 3)) == folder and (folder / "p(r)").stat().st_mtime_ns == changed
    assert (trainer(TrainingStrategy.arccos()) / "p(r)").read_text() == "arccos "
    assert (
        len({trainer(one) for one in (TrainingStrategy(12, 3), TrainingStrategy(3, 12), TrainingStrategy.fixed(0.8))})
        == 3
    )


def test_a_training_that_outlived_its_worker_is_waited_for(script):
    trainer = trainer_of(script, "0.1")
    worker = multiprocessing.get_context("fork").Process(target=trainer, args=(TrainingStrategy(12, 3),))
    worker.start()
    record = script.parent / "candidates" / "12-3-beta" / "candidate.json"
    while not (record.exists() and (record.parent / "steps").exists()):
        time.sleep(0.01)
    worker.kill()
    worker.join()
    orphan = json.loads(record.read_text())["process"]["pid"]
    assert psutil.pid_exists(orphan)
    trainer(TrainingStrategy(12, 3))
    assert (record.parent / "steps").read_text() == "x" * 10  # two at once would have written more
    assert json.loads(record.read_text())["done"]


def test_two_that_ask_for_one_candidate_train_it_once(script):
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(trainer_of(script, "0.02")(TrainingStrategy(12, 3))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and folders[0] == folders[1]
    assert (folders[0].parent / "steps").read_text() == "x" * 10  # two at once would have written more


def test_a_killed_training_goes_on(script):
    record = script.parent / "candidates" / "12-3-beta" / "candidate.json"
    steps = record.parent / "steps"

    def kill_training():
        while not (steps.exists() and len(steps.read_text()) >= 2 and "process" in json.loads(record.read_text())):
            time.sleep(0.01)
        os.kill(json.loads(record.read_text())["process"]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill_training, daemon=True)
    killer.start()
    with pytest.raises(RuntimeError, match="failed with status -9"):
        trainer_of(script, "0.2")(TrainingStrategy(12, 3))
    killer.join()
    assert 2 <= len(steps.read_text()) < 10
    trainer_of(script, "0.2")(TrainingStrategy(12, 3))
    assert len(steps.read_text()) == 10


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_gives_the_trial_back(script, sent):
    """As a cluster's time limit, or Ctrl-C: the training is dead before its worker looks for it."""
    location = script.parent / "s"
    space, trainer = training_space(TrainingStrategy(12, 3), [8, 12], [3, 4]), trainer_of(script, "60")

    def work():
        os.setpgid(0, 0)
        signal.signal(sent, signal.default_int_handler)  # as scripts have it

        def score(strategy, trial):
            return float(trainer(strategy) is None)

        search_training(open_storage(location), "s", {}, score, space, progress=False)

    worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    worker.start()
    record = script.parent / "candidates" / "12.0-3.0-beta" / "candidate.json"
    while not (record.exists() and "process" in json.loads(record.read_text())):
        time.sleep(0.01)
    os.killpg(worker.pid, sent)
    worker.join(30)
    assert worker.exitcode not in (0, None) and not psutil.pid_exists(json.loads(record.read_text())["process"]["pid"])
    [trial] = optuna.load_study(study_name="s", storage=open_storage(location)).trials
    assert trial.user_attrs["failure"] == "lost: the worker was interrupted"


def test_a_failed_training_says_why(script):
    with pytest.raises(RuntimeError, match="failed with status 1: the loss is nan at step 2"):
        trainer_of(script)(TrainingStrategy(13, 3))


def test_candidates_of_another_command_are_refused(script):
    trainer_of(script)(TrainingStrategy(12, 3))
    with pytest.raises(ValueError, match="was trained with other arguments: .*--pause 0$"):
        trainer_of(script, "0.001")(TrainingStrategy(12, 3))


def test_arguments_that_the_search_sets(script, tmp_path):
    for words in (["--mask_alpha", "2"], ["--output_dir=x"], ["--resume_from_checkpoint", "latest"]):
        with pytest.raises(ValueError, match="is set by the search"):
            CandidateTrainer(tmp_path, script, ["--train_data_dir", "x", *words])
    with pytest.raises(ValueError, match="name no data"):
        CandidateTrainer(tmp_path, script, ["--max_train_steps", "2"])
    with pytest.raises(ValueError, match="no training script"):
        CandidateTrainer(tmp_path, script / "nowhere", ["--train_data_dir", "x"])
    trainer = CandidateTrainer(tmp_path, script, ["--train_data_dir", "x"], ["accelerate", "launch"])
    assert trainer.command == ["accelerate", "launch", str(script), "--train_data_dir", "x"]


def test_a_candidate_does_not_depend_on_where_the_script_lies(script, tmp_path):
    trainer = trainer_of(script)
    folder = trainer(TrainingStrategy(12, 3))
    moved = script.rename(script.parent / "moved.py")
    assert trainer_of(moved).recipe == trainer.recipe and trainer_of(moved)(TrainingStrategy(12, 3)) == folder


def test_flags():
    assert training_flags(TrainingStrategy(12, 3)) == [
        "--mask_distribution",
        "beta",
        "--mask_alpha",
        "12.0",
        "--mask_beta",
        "3.0",
    ]
    assert training_flags(TrainingStrategy.fixed(0.8)) == ["--mask_distribution", "fixed", "--mask_ratio", "0.8"]
    assert [describe(one) for one in (TrainingStrategy(12, 0.5), TrainingStrategy.arccos(), TrainingStrategy.fixed(0.8))] == [
        "Beta(12, 0.5)", "arccos", "fixed 0.8"
    ]  # fmt: skip


def score(candidate, trial):
    """Best at Beta(8, 3)."""
    return (candidate.alpha - 8) ** 2 / 16 + (candidate.beta - 3) ** 2


def test_line_search_and_confirmation(tmp_path):
    space = training_space(TrainingStrategy(2, 1))
    study = search_training(open_storage(tmp_path / "s"), "p", {}, score, space, progress=False)
    assert study.best_params == {"alpha": 8.0, "beta": 3.0}
    number = len(study.trials)
    again = search_training(open_storage(tmp_path / "s"), "p", {}, score, space, progress=False)
    assert len(again.trials) == number < 42

    candidates = {describe(one): one for one in (TrainingStrategy(2, 1), TrainingStrategy(8, 3))}
    storage, trained = open_storage(tmp_path / "s"), []
    for _ in range(2):
        ranked = score_candidates(
            storage, "c", {}, candidates, lambda one, trial: trained.append(one) or score(one, trial), progress=False
        )
        assert [(one.label, one.strategy, one.value) for one in ranked] == [
            ("Beta(8, 3)", TrainingStrategy(8, 3), 0.0), ("Beta(2, 1)", TrainingStrategy(2, 1), 6.25)
        ]  # fmt: skip
    assert len(trained) == 2
