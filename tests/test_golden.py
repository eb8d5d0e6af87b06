"""What earlier releases wrote is loaded as it was meant: each `fixtures/golden-<version>/`, by `fixtures/make_golden.py`."""

import json
import shutil
from pathlib import Path

import optuna
import pytest
import torch
from diffusers import VQModel

from diffusers_autonat import AutoNATPipeline, GenerationStrategy
from diffusers_autonat.metrics import Report
from diffusers_autonat.search import (
    FixedStepsSpace,
    StrategyObjective,
    make_sampler,
    open_storage,
    open_study,
    run_study,
)
from diffusers_autonat.search.study import complete_trials
from diffusers_autonat.search.workers import is_lost, slot_of
from diffusers_autonat.strategy_files import read_strategies, read_strategy
from diffusers_autonat.training.tokens import load_token_set


FIXTURES = Path(__file__).parent / "fixtures"
LABELS = {0: "cat, kitty", 1: "<b>dog</b>"}
YAML = """manual_ratios: [0.75]
manual_samp_temp: [1.5, 1.0]
manual_temp: [2.5]
manual_cfg: [0.0001, 1.25]
"""
SEARCHED = ("search", {"metric": "fid", "num_inference_steps": [2]})
GREEDY = GenerationStrategy([0.8, 0.5, 0.2, 0.0], [0.0] * 4, [0.0] * 4, [0.0, 0.5, 1.0, 1.5])  # nothing is drawn


def score(strategy, trial):
    return sum(sum(values) for values in strategy.to_dict().values())


def logits_of(transformer):
    tokens = (torch.arange(16) % 9)[None]  # all codes, and the mask
    return transformer(tokens, class_labels=torch.tensor([1])).sample[0, :3].tolist()


def greedy(pipe):
    """Tokens and an image without chance."""
    pipe.set_progress_bar_config(disable=True)
    options = {"class_labels": [0, "<b>dog</b>"], "strategy": GREEDY, "generator": torch.Generator().manual_seed(0)}
    tokens = pipe(**options, output_type="latent").images
    return {"tokens": tokens.tolist(), "pixels": pipe(**options, output_type="np").images[1, :2, :, 0].tolist()}


@pytest.fixture(params=sorted(FIXTURES.glob("golden-*")), ids=lambda path: path.name)
def golden(request, tmp_path):
    folder = tmp_path / "golden"
    shutil.copytree(request.param, folder)
    return folder


@pytest.mark.parametrize("name", ["autonat", "enat"])
def test_pipelines_draw_the_same(golden, name):
    expected = json.loads((golden / "outputs.json").read_text())[name]
    shutil.copytree(golden / "vqvae", golden / name / "vqvae")
    pipe = AutoNATPipeline.from_pretrained(golden / name)
    assert isinstance(pipe.vqvae, VQModel) and pipe.id2label == LABELS
    stored = {2: GenerationStrategy.cosine(2), 3: GenerationStrategy.enat(3)}
    assert pipe.scheduler.stored_strategies == stored
    with torch.no_grad():
        torch.testing.assert_close(logits_of(pipe.transformer), expected["logits"], rtol=1e-4, atol=1e-4)
    drawn = greedy(pipe)
    assert drawn["tokens"] == expected["tokens"]
    torch.testing.assert_close(drawn["pixels"], expected["pixels"], rtol=1e-3, atol=1e-3)


def test_strategy_files(golden):
    assert read_strategy(golden / "strategy.yaml") == GenerationStrategy([0.75, 0], [1.5, 1], [2.5, 0], [0, 1.25])
    config = golden / "autonat" / "scheduler" / "scheduler_config.json"
    assert read_strategies(config) == [GenerationStrategy.cosine(2), GenerationStrategy.enat(3)]


def test_token_set(golden):
    rows, info = load_token_set(golden / "tokens")
    assert (len(rows), info.num_images, info.codebook_size, info.sample_size) == (12, 6, 8, 4)  # and all flipped
    assert rows["label"][:4] == [0, 0, 1, 1] and set(sum(rows["input_ids"], [])) <= set(range(8))


def test_search_goes_on(golden):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = FixedStepsSpace(GenerationStrategy.cosine(2))
    outcomes = []
    for place in (golden / "search.journal", golden / "new.journal"):
        study = open_study(open_storage(place), *SEARCHED, make_sampler("random", space.parameters, 6))
        before = len(study.trials)
        run_study(study, StrategyObjective(space, score), 6, progress=False)
        outcomes.append({tuple(slot_of(trial)): trial.params for trial in complete_trials(study)})
        assert [trial.number for trial in study.trials if is_lost(trial)] == ([3] if before else [])
        assert before == (4 if place.name == "search.journal" else 0)
    assert outcomes[0].keys() == outcomes[1].keys()
    for slot, params in outcomes[0].items():
        assert params == pytest.approx(outcomes[1][slot])


def test_report(golden):
    report = Report.load(golden / "report.json")
    assert report.values == {"fid": 12.5} and report.warnings == ["a warning"] and report.images["num_images"] == 6
