import math
import subprocess
import sys

import optuna
import pytest
from optuna.trial import FixedTrial

from diffusers_autonat import GenerationStrategy, TrainingStrategy
from diffusers_autonat.search import (
    DescentParameter,
    GridParameter,
    generation_params,
    generation_space,
    generation_start,
    generation_strategy,
    resample_strategy,
    suggest,
    training_params,
    training_space,
    training_strategy,
)


SCHEDULES = ("mask_ratios", "sampling_temperatures", "remasking_temperatures", "guidance_scales")


def test_start_is_the_released_one():
    start = generation_start(4)
    assert start.mask_ratios == (math.cos(math.pi / 8), math.cos(math.pi / 4), math.cos(3 * math.pi / 8), 0)
    assert start.sampling_temperatures == (1, 1, 1, 1)
    assert start.remasking_temperatures == (0.75, 0.5, 0.25, 0)
    assert start.guidance_scales == (0.25, 0.5, 0.75, 1)


def test_released_space():
    space = generation_space(generation_start(4))
    assert list(space) == [
        *(f"mask_ratios.{t}" for t in range(3)),
        *(f"sampling_temperatures.{t}" for t in range(4)),
        *(f"remasking_temperatures.{t}" for t in range(3)),
        *(f"guidance_scales.{t}" for t in range(4)),
    ]
    for name, parameter in space.items():
        if name.startswith("mask_ratios"):
            assert (parameter.low, parameter.high, parameter.step, parameter.learning_rate) == (0, 0.99, 0.01, 0.001)
        else:
            assert (parameter.low, parameter.step, parameter.learning_rate) == (1e-4, 0.1, 0.1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_free_schedules(schedule):
    start = generation_start(5)
    space = generation_space(start, free=[schedule])
    assert {name.split(".")[0] for name in space} == {schedule}
    others = [name for name in SCHEDULES if name != schedule]
    found = generation_strategy(dict.fromkeys(space, 0.5), start)
    assert all(getattr(found, name) == getattr(start, name) for name in others)
    assert getattr(found, schedule)[0] == 0.5


@pytest.mark.parametrize("num_inference_steps", [1, 2, 4, 8, 20])
def test_round_trip(num_inference_steps):
    start = generation_start(num_inference_steps)
    for strategy in (
        start,
        GenerationStrategy.cosine(num_inference_steps),
        GenerationStrategy.enat(num_inference_steps),
    ):
        space = generation_space(strategy)
        params = generation_params(strategy, space)
        assert params == {name: parameter.start for name, parameter in space.items()}
        found = generation_strategy(params, strategy)
        assert found.mask_ratios == tuple(min(ratio, 0.99) for ratio in strategy.mask_ratios)
        assert found.to_dict() | {"mask_ratios": None} == strategy.to_dict() | {"mask_ratios": None}


def test_lower_clamp_is_off():
    """A parameter that rests on its clamp is 0 in the strategy, and 0 comes back as the clamp."""
    start = generation_start(3)
    space = generation_space(start)
    off = {name: parameter.low for name, parameter in space.items()}
    strategy = generation_strategy(off, start)
    for schedule in SCHEDULES:
        assert getattr(strategy, schedule) == (0.0, 0.0, 0.0)
    assert generation_params(strategy, space) == off


def test_nothing_free():
    with pytest.raises(ValueError, match="nothing is free"):
        generation_space(generation_start(4), free=[])
    with pytest.raises(ValueError, match="T = 1"):
        generation_space(generation_start(1), free=["mask_ratios", "remasking_temperatures"])
    with pytest.raises(ValueError, match="unknown schedules.*tau1"):
        generation_space(generation_start(4), free=["tau1"])


def test_start_out_of_bounds():
    with pytest.raises(ValueError, match="remasking_temperatures has a value 11.0 above the bound 10.0"):
        generation_space(GenerationStrategy.cosine(4, remasking_temperature=11.0))


@pytest.mark.parametrize(
    "values",
    [(2, 0, 1, 0.1, 0.1), (math.nan, 0, 1, 0.1, 0.1), (0, 0, 0, 0.1, 0.1), (0, 0, 1, 0, 0.1), (0, 0, 1, 1, 0)],
)
def test_bad_descent_parameter(values):
    with pytest.raises(ValueError):
        DescentParameter(*values)


def test_bad_grid_parameter():
    with pytest.raises(ValueError, match="start 5 is not on the grid"):
        GridParameter(5, (1, 2))
    for values in ((2, 1), (1, 1), (1,), ()):
        with pytest.raises(ValueError, match="ascending"):
            GridParameter(1, values)


def test_training_space():
    space = training_space(TrainingStrategy(1, 0.5))
    assert list(space) == ["alpha", "beta"]
    assert {12.0, 3.0} <= {*space["alpha"].values, *space["beta"].values}
    assert (space["alpha"].low, space["alpha"].high) == (1, 24)
    strategy = TrainingStrategy(12, 3)
    assert training_strategy(training_params(strategy)) == strategy
    with pytest.raises(ValueError, match="arccos"):
        training_space(TrainingStrategy.arccos())


def test_suggest():
    space = {**generation_space(generation_start(2)), **training_space(TrainingStrategy(1, 0.5))}
    params = {name: parameter.start for name, parameter in space.items()}
    assert suggest(FixedTrial(params), space) == params
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    assert suggest(trial, space) == trial.params
    assert all(space[name].low <= value <= space[name].high for name, value in trial.params.items())


def test_resample_strategy():
    start = GenerationStrategy(
        mask_ratios=(0.8, 0.4, 0.2, 0.0), sampling_temperatures=(1.0, 2.0, 3.0, 4.0),
        remasking_temperatures=(3.0, 2.0, 1.0, 0.0), guidance_scales=(0.0, 1.0, 2.0, 3.0),
    )  # fmt: skip
    assert resample_strategy(start, 4).to_dict() == {**start.to_dict(), "remasking_temperatures": [3.0, 2.0, 1.0, 1.0]}
    long = resample_strategy(start, 8)
    assert long.mask_ratios == pytest.approx((0.9, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0))
    assert long.sampling_temperatures == pytest.approx((1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0))
    assert long.remasking_temperatures == pytest.approx((3.0, 3.0, 2.5, 2.0, 1.5, 1.0, 1.0, 1.0))
    assert long.guidance_scales == pytest.approx((0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0))
    assert resample_strategy(start, 2).mask_ratios == pytest.approx((0.4, 0.0))
    assert resample_strategy(GenerationStrategy.cosine(1), 3).mask_ratios == pytest.approx((2 / 3, 1 / 3, 0.0))


def test_optuna_is_optional():
    """The package works without Optuna, and the search says what to install."""
    code = """
import sys
sys.modules["optuna"] = None
import diffusers_autonat
try:
    import diffusers_autonat.search
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "diffusers-autonat[search]" in result.stdout
