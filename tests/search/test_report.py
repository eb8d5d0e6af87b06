"""What a search leaves behind: configs that load, provenance and tables."""

import csv
import json
import multiprocessing
import time

import optuna
import pytest

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler
from diffusers_autonat.search import (
    EvaluatorScore,
    FixedStepsSpace,
    StrategyObjective,
    make_sampler,
    save_strategy,
    save_trials,
)
from diffusers_autonat.search.report import writing
from tests.conftest import tiny_pipeline


FOUND = GenerationStrategy([0.9, 0.1 + 0.2, 0.1, 0], [1 / 3, 1, 1, 1], [2, 1, 1, 0], [0, 0, 1, 2])


@pytest.fixture
def study():
    space = FixedStepsSpace(GenerationStrategy.cosine(4), ["guidance_scales"])

    def evaluator(num_images, seed, strategy):
        if strategy.guidance_scales[0] > 4:
            raise RuntimeError("no memory")
        return {"frechet_distance": sum(strategy.guidance_scales), "class_consistency": 0.25}

    study = optuna.create_study(sampler=make_sampler("random", space.parameters, 12))
    study.optimize(StrategyObjective(space, EvaluatorScore(evaluator, 10)), n_trials=12, catch=(Exception,))
    return study


def test_the_config_loads_unchanged(tmp_path, recwarn):
    save_strategy(tmp_path, NATScheduler(16), FOUND, {"study": "s", "trial": "trial 7"})
    scheduler = NATScheduler.from_pretrained(tmp_path)
    assert scheduler.get_strategy(4) == FOUND and scheduler.config.mask_token_id == 16
    assert json.loads((tmp_path / "search.json").read_text()) == {"4": {"study": "s", "trial": "trial 7"}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scheduler_config.json", "search.json"]
    assert not [warning for warning in recwarn if "strategies" in str(warning.message)]


def test_into_a_pipeline_folder(tmp_path):
    """The strategy of the same T is replaced, others and their provenance stay, and the pipeline still loads."""
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    folder = tmp_path / "scheduler"
    save_strategy(folder, pipe.scheduler, GenerationStrategy.cosine(8, guidance_scale=1.0), {"study": "eight"})
    save_strategy(folder, NATScheduler.from_pretrained(folder), FOUND, {"study": "four"})
    loaded = AutoNATPipeline.from_pretrained(tmp_path).scheduler.stored_strategies
    assert loaded == {4: FOUND, 8: GenerationStrategy.cosine(8, guidance_scale=1.0)}
    assert json.loads((folder / "search.json").read_text()) == {"8": {"study": "eight"}, "4": {"study": "four"}}


def test_all_trials_are_in_the_table(tmp_path, study):
    save_trials(study, tmp_path / "trials.csv")
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert len(rows) == 12
    for row, trial in zip(rows, study.trials):
        assert row["state"] == trial.state.name
        assert float(row["guidance_scales.2"]) == trial.params["guidance_scales.2"]
        if trial.value is None:
            assert row["value"] == row["frechet_distance"] == ""
        else:
            assert float(row["value"]) == float(row["frechet_distance"]) == trial.value
            assert float(row["class_consistency"]) == 0.25
    assert {row["state"] for row in rows} == {"COMPLETE", "FAIL"}


def hold(folder, seconds):
    with writing(folder):
        (folder / "held").touch()
        time.sleep(seconds)


def test_workers_write_results_one_after_another_and_a_killed_one_blocks_nobody(tmp_path):
    fork = multiprocessing.get_context("fork")
    holder = fork.Process(target=hold, args=(tmp_path, 60))
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    follower = fork.Process(target=hold, args=(tmp_path, 0))
    follower.start()
    follower.join(0.3)
    assert follower.is_alive()
    holder.kill()
    follower.join(20)
    assert follower.exitcode == 0


def write_all(folder, number):
    for _ in range(10):
        with writing(folder):
            save_strategy(folder, NATScheduler(16), GenerationStrategy.cosine(number), {"by": number})


def test_six_workers_write_the_strategies_they_found(tmp_path):
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=write_all, args=(tmp_path, number)) for number in range(1, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert json.loads((tmp_path / "search.json").read_text()).keys() == set("123456")
