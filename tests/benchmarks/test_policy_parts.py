"""The script that says what of a policy's gain is due to what: a static policy gains nothing by any of it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_autonat import AdaptivePolicyModel, AutoNATPipeline
from diffusers_autonat.metrics import compute_reference, load_extractor, save_reference
from tests.conftest import save_tiny_classifier, save_tiny_study


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def study(tmp_path_factory, fashion_mnist):
    folder = tmp_path_factory.mktemp("study")
    save_tiny_study(folder, fashion_mnist[0])
    save_tiny_classifier(folder / "second", seed=1)
    samples = [(torch.from_numpy(np.ascontiguousarray(image))[None], None) for image in fashion_mnist[0]]
    save_reference(compute_reference(samples, load_extractor(str(folder / "second"))), folder / "second.npz")
    return folder


def values_of(monkeypatch, study, output, policy):
    policy.save_pretrained(output / "policy")
    words = ["policy_parts.py", study / "pipeline", "--policy", output / "policy", "--judge", study / "judge",
             "--reference", study / "reference.npz", "--second-judge", study / "second", "--second-reference",
             study / "second.npz", "--num-images", 36, "--traced-images", 12, "--output", output / "parts.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    for _ in range(2):  # the second time all is there
        runpy.run_path(str(BENCHMARKS / "policy_parts.py"), run_name="__main__")
    values = json.loads((output / "parts.json").read_text())["values"]
    assert len(values) == 5 and all("second_frechet_distance" in one for one in values.values())
    return [one["frechet_distance"] for one in values.values()]


def policy_of(pipeline):
    config = pipeline.transformer.config
    return AdaptivePolicyModel(
        in_channels=config.hidden_size, hidden_size=8, conv_channels=4, mlp_channels=(8, 8), grid_size=config.sample_size,
        num_inference_steps=4, action_smooth=0.0, strategy=pipeline.scheduler.get_strategy(4).to_dict(),
    )  # fmt: skip


def test_parts_of_a_policys_gain(monkeypatch, study, tmp_path):
    pipeline = AutoNATPipeline.from_pretrained(study / "pipeline")
    static = policy_of(pipeline)
    values = values_of(monkeypatch, study, tmp_path / "static", static)
    assert values == pytest.approx([values[0]] * 5, rel=0.02)
    torch.manual_seed(0)
    torch.nn.init.normal_(static.proj_out.weight)
    start, *others = values_of(monkeypatch, study, tmp_path / "adaptive", static)
    assert start == pytest.approx(values[0], rel=0.02) and len({start, *others}) == 5
