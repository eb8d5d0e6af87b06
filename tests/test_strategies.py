import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_autonat import GenerationStrategy, TrainingStrategy
from diffusers_autonat.strategies import as_strategies


RELEASED_YAML = """
manual_ratios: [0.9531645174140464, 0.8795409806037042, 0.6249785820461957]
manual_temp: [2.404912789740805, 2.477616274962803, 0.0001]
manual_samp_temp: [2.8999037830310685, 1.867261830931786, 1.1443729673819831, 0.7133060703601533]
manual_cfg: [0.0001, 0.0001, 0.9151274967591447, 1.22678520936251]
"""


def test_cosine_is_the_papers_heuristic():
    strategy = GenerationStrategy.cosine(8, remasking_temperature=4.5, guidance_scale=3.0)
    for t in range(1, 9):
        assert strategy.mask_ratios[t - 1] == pytest.approx(math.cos(math.pi * t / 16), abs=1e-15)
        assert strategy.sampling_temperatures[t - 1] == 1.0
        assert strategy.remasking_temperatures[t - 1] == pytest.approx(4.5 * (8 - t + 1) / 8)
        assert strategy.guidance_scales[t - 1] == pytest.approx(3.0 * t / 8)
    assert strategy.mask_ratios[-1] == 0.0


def test_enat_is_the_released_sampler():
    strategy = GenerationStrategy.enat(8)
    assert strategy.guidance_scales[0] == 0.0 and strategy.guidance_scales[-1] == pytest.approx(2.5 * 7 / 8)
    assert strategy.sampling_temperatures[0] == pytest.approx(6 * 7 / 8) and strategy.sampling_temperatures[-1] == 1e-3
    assert strategy.remasking_temperatures == pytest.approx([1.5 * (1 - t / 8) for t in range(1, 9)])


def test_one_step():
    assert GenerationStrategy.cosine(1).mask_ratios == (0.0,)


def test_from_yaml_appends_the_last_step_and_turns_clamped_values_off(tmp_path):
    path = tmp_path / "strategy.yaml"
    path.write_text(RELEASED_YAML)
    strategy = GenerationStrategy.from_yaml(path)
    assert strategy.mask_ratios == (0.9531645174140464, 0.8795409806037042, 0.6249785820461957, 0.0)
    assert strategy.remasking_temperatures == (2.404912789740805, 2.477616274962803, 0.0, 0.0)
    assert strategy.guidance_scales == (0.0, 0.0, 0.9151274967591447, 1.22678520936251)
    path.write_text("manual_ratios: [0.5]")
    with pytest.raises(ValueError, match="manual_samp_temp"):
        GenerationStrategy.from_yaml(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mask_ratios": [0.5, 0.2, 0.0]}, "sampling_temperatures has 2 values but mask_ratios has 3"),
        ({"mask_ratios": [1.2, 0.0]}, r"mask_ratios\[0\] = 1.2"),
        ({"mask_ratios": [-0.1, 0.0]}, r"mask_ratios\[0\] = -0.1"),
        ({"mask_ratios": [0.5, 0.1]}, r"mask_ratios\[1\] = 0.1"),
        ({"mask_ratios": []}, "at least one step"),
        ({"mask_ratios": 0.5}, "mask_ratios must be a list"),
        ({"sampling_temperatures": [1.0, -2.0]}, r"sampling_temperatures\[1\] = -2.0"),
        ({"remasking_temperatures": [float("nan"), 1.0]}, r"remasking_temperatures\[0\] = nan"),
        ({"guidance_scales": [0.0, float("inf")]}, r"guidance_scales\[1\] = inf"),
        ({"guidance_scales": [0.0, 1e39]}, r"guidance_scales\[1\] = 1e\+39 must be finite .* as float32"),
        ({"guidance_scales": [0.0, 10**400]}, r"guidance_scales\[1\] = 10+.* must be finite"),
        ({"guidance_scales": [0.0, 10**5000]}, r"guidance_scales\[1\] = <int> must be finite"),
        ({"guidance_scales": [True, False]}, r"guidance_scales\[0\] = True must be a number"),
        ({"guidance_scales": np.array([True, False])}, r"guidance_scales\[0\] = True must be a number"),
        ({"guidance_scales": ["1", "2"]}, r"guidance_scales\[0\] = '1' must be a number"),
        ({"guidance_scales": [1j, 2]}, r"guidance_scales\[0\] = 1j must be a number"),
        ({"guidance_scales": [[1.0], [2.0]]}, r"guidance_scales\[0\] = \[1.0\] must be a number"),
        ({"guidance_scales": torch.ones(2, 1)}, r"guidance_scales\[0\] = \[1.0\] must be a number"),
        ({"guidance_scales": torch.tensor(1.0)}, r"guidance_scales must be a list of floats, .* got tensor\(1.\)"),
        ({"guidance_scales": {0: 1.0, 1: 2.0}}, r"guidance_scales must be a list of floats, .* got {0: 1.0, 1: 2.0}"),
        ({"guidance_scales": {1.0, 2.0}}, r"guidance_scales must be a list of floats, .* got {1.0, 2.0}"),
        ({"guidance_scales": "12"}, r"guidance_scales must be a list of floats, .* got '12'"),
        ({"guidance_scales": b"12"}, r"guidance_scales must be a list of floats, .* got b'12'"),
        ({"guidance_scales": bytearray(b"12")}, r"guidance_scales must be a list of floats"),
        ({"guidance_scales": (float(i) for i in range(2))}, r"guidance_scales must be a list of floats"),
        ({"guidance_scales": None}, r"guidance_scales must be a list of floats, .* got None"),
        ({"guidance_scales": [[[[]]] * 9, 1.0]}, r"guidance_scales\[0\] = .* must be a number"),
    ],
)
def test_bad_values_are_named(change, message):
    values = GenerationStrategy.cosine(2).to_dict() | change
    with pytest.raises(ValueError, match=message):
        GenerationStrategy(**values)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "4", None, float("nan"), float("inf"), 10**12, 10**400])
def test_bad_numbers_of_steps(steps):
    with pytest.raises(ValueError, match="num_inference_steps"):
        GenerationStrategy.cosine(steps)


@pytest.mark.parametrize("make", [GenerationStrategy.cosine, GenerationStrategy.enat])
@pytest.mark.parametrize("name", ["sampling_temperature", "remasking_temperature", "guidance_scale"])
@pytest.mark.parametrize("value", [float("nan"), -1.0, 1e39, "1", None, [1.0]])
def test_bad_parameters_of_heuristics(make, name, value):
    with pytest.raises(ValueError, match=name) as error:
        make(4, **{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"strategy = {} is no GenerationStrategy: make one of it with GenerationStrategy.from_dict"),
        ("s.yaml", r"strategy = 's.yaml' is no GenerationStrategy: read the file with .*read_strategy"),
        (Path("s.yaml"), r"read the file with .*read_strategy"),
        (0, r"strategy = 0 is no GenerationStrategy: pass one, or a list"),
        ([], r"strategy = \[\] is no GenerationStrategy: pass one, or a list"),
        ([GenerationStrategy.cosine(2), {}], r"strategy\[1\] = {} is no GenerationStrategy"),
        ("ab", r"strategy = 'ab' is no GenerationStrategy"),
    ],
)
def test_what_is_no_strategy_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        as_strategies(given)


def test_one_strategy_or_several():
    one, other = GenerationStrategy.cosine(2), GenerationStrategy.enat(2)
    assert as_strategies(one) == [one] and as_strategies((one, other)) == [one, other]


positive = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(st.floats(0, 1), positive, positive, positive), min_size=0, max_size=15))
def test_json_keeps_every_digit(rows):
    r, tau1, tau2, s = ([row[i] for row in [*rows, (0.0, 1.0, 0.0, 1 / 3)]] for i in range(4))
    strategy = GenerationStrategy(r, tau1, tau2, s)
    assert GenerationStrategy.from_dict(json.loads(json.dumps(strategy.to_dict()))) == strategy


def test_numpy_and_torch_scalars_become_floats():
    strategy = GenerationStrategy(np.float32([0.5, 0]), torch.ones(2), [np.float64(1), 2], [0, 1])
    assert all(type(value) is float for values in strategy.to_dict().values() for value in values)
    json.dumps(strategy.to_dict())


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match="temperature"):
        GenerationStrategy.from_dict({"temperature": [1.0]})


def test_beta_moments():
    torch.manual_seed(0)
    ratios = TrainingStrategy(12, 3).sample(200_000)
    assert ratios.mean().item() == pytest.approx(12 / 15, abs=1e-3)
    assert ratios.var().item() == pytest.approx(12 * 3 / (15**2 * 16), rel=0.02)


def test_arccos_has_the_heuristics_distribution():
    torch.manual_seed(0)
    ratios = TrainingStrategy.arccos().sample(200_000)
    # P(r < x) = 2 asin(x) / pi for the density 2 / (pi sqrt(1 - x^2)).
    for x in (0.2, 0.5, 0.9):
        assert (ratios < x).float().mean().item() == pytest.approx(2 * math.asin(x) / math.pi, abs=5e-3)


def test_fixed():
    assert TrainingStrategy.fixed(0.8).sample(3).tolist() == pytest.approx([0.8] * 3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TrainingStrategy(0, 3), "alpha = 0"),
        (lambda: TrainingStrategy(12, float("inf")), "beta = inf"),
        (lambda: TrainingStrategy.fixed(1.2), "ratio = 1.2"),
        (lambda: TrainingStrategy(distribution="cauchy"), "cauchy"),
        (lambda: TrainingStrategy(distribution=["beta"]), r"distribution = \['beta'\]"),
        (lambda: TrainingStrategy("12", 3), "alpha = '12' must be a number"),
        (lambda: TrainingStrategy(True, 3), "alpha = True must be a number"),
        (lambda: TrainingStrategy(12), "beta = None must be a number"),
        (lambda: TrainingStrategy(1e39, 3), r"alpha = 1e\+39 must be finite"),
        (lambda: TrainingStrategy(1e-46, 3), "alpha = 1e-46 must be positive"),
        (lambda: TrainingStrategy(float("nan"), 3), "alpha = nan"),
        (lambda: TrainingStrategy.fixed(float("nan")), "ratio = nan"),
        (lambda: TrainingStrategy.fixed(0), r"ratio = 0 must be in \(0, 1\]"),
        (lambda: TrainingStrategy("../../up", distribution="arccos"), "alpha = '../../up' is none of 'arccos'"),
        (lambda: TrainingStrategy(1, 2, ratio=0.5), "ratio = 0.5 is none of 'beta'"),
    ],
)
def test_bad_training_strategies(make, message):
    with pytest.raises(ValueError, match=message):
        make()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
VALUES = st.floats() | st.floats(0, 3.5e38) | st.integers(-1, 10**400)
SCHEDULE = st.lists(st.floats(0, 1), max_size=3) | st.lists(VALUES, max_size=3) | ANYTHING


@given(*[SCHEDULE] * 4)
def test_any_schedules_are_a_lawful_strategy_or_one_line(r, tau1, tau2, s):
    try:
        strategy = GenerationStrategy(r, tau1, tau2, s)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    steps = strategy.num_inference_steps
    for values in strategy.to_dict().values():
        tensor = torch.tensor(values, dtype=torch.float32)
        assert tensor.shape == (steps,) and tensor.isfinite().all() and (tensor >= 0).all()
    assert strategy.mask_ratios[-1] == 0 and max(strategy.mask_ratios) <= 1 and len(strategy.steps()) == steps


@given(ANYTHING | st.integers(0, 20), *[VALUES | ANYTHING] * 3)
def test_any_heuristic_is_a_lawful_strategy_or_one_line(steps, tau1, tau2, s):
    for make in (GenerationStrategy.cosine, GenerationStrategy.enat):
        try:
            assert make(steps, tau1, tau2, s).num_inference_steps == steps
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 500


@given(ANYTHING)
def test_anything_as_strategy(given):
    with pytest.raises(ValueError) as error:
        as_strategies(given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    with pytest.raises(ValueError):
        GenerationStrategy.from_dict(given)


@given(*[VALUES | ANYTHING] * 2, st.sampled_from(["beta", "arccos", "fixed"]) | ANYTHING, VALUES | ANYTHING)
def test_any_training_strategy_draws_ratios_or_is_one_line(alpha, beta, distribution, ratio):
    try:
        strategy = TrainingStrategy(alpha, beta, distribution, ratio)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    ratios = strategy.sample(10)
    assert ratios.isfinite().all() and (ratios >= 0).all() and (ratios <= 1).all()


@given(st.floats(1e-40, 1e39), st.floats(1e-40, 1e39))
def test_every_beta_draws_ratios(alpha, beta):
    test_any_training_strategy_draws_ratios_or_is_one_line.hypothesis.inner_test(alpha, beta, "beta", None)
