"""Optuna's own cases for samplers (`optuna.testing.pytest_samplers`), run for all of ours.

What cannot apply is left out by name, with the reason.
"""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from diffusers_autonat.search import (
    DescentParameter,
    FiniteDifferenceSampler,
    GreedyLineSearchSampler,
    GridParameter,
    ResumableSampler,
)
from tests.search.descent import SPACE


optuna.logging.set_verbosity(optuna.logging.ERROR)

# So many parameters that no search ends within the at most 20 trials of a case: at its end it would stop the study.
GRID = {f"p{index}": GridParameter(0, (0, 1)) for index in range(30)}


class TestFiniteDifferences(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """All cases; their parameters are not in the space, so they are the independent sampler's."""

    @pytest.fixture
    def sampler(self):
        return lambda: FiniteDifferenceSampler(SPACE)


class TestLineSearch(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """All cases, as above."""

    @pytest.fixture
    def sampler(self):
        return lambda: GreedyLineSearchSampler(GRID)


FLOATS = [FloatDistribution(-1.0, 1.0), FloatDistribution(0.5, 0.51), FloatDistribution(-1e6, 0.0)]


class TestInsideTheSpace(RelativeSamplerTestCase):
    """The relative cases with parameters of the space, which are floats on a linear scale and nothing else."""

    # A parameter of the space has neighbours along a line; Optuna itself refuses one name with two kinds of distribution.
    test_sample_relative_categorical = None
    test_sample_relative_mixed = None

    @pytest.fixture(params=["finite-difference", "line-search"])
    def sampler(self, request):
        arguments = request.node.callspec.params
        ranges = {name: arguments.get(f"{name}_distribution", FloatDistribution(-10, 10)) for name in "xy"}
        if request.param == "line-search":
            return lambda: GreedyLineSearchSampler(
                {name: GridParameter(one.low, (one.low, one.high)) for name, one in ranges.items()}
            )
        return lambda: FiniteDifferenceSampler(
            {name: DescentParameter(one.low, one.low, one.high, 0.1, 0.1) for name, one in ranges.items()}
        )

    @pytest.mark.parametrize("x_distribution", FLOATS)
    @pytest.mark.parametrize("y_distribution", FLOATS)
    def test_sample_relative_numerical(self, sampler, x_distribution, y_distribution):
        super().test_sample_relative_numerical(sampler, x_distribution, y_distribution)


def resumable(make):
    return lambda: ResumableSampler(make)


class TestResumableTPE(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return resumable(lambda seed: TPESampler(seed=seed, n_startup_trials=0, multivariate=True))


class TestResumableCmaEs(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return resumable(lambda seed: CmaEsSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False))


@pytest.mark.slow  # a model is fitted for every value
class TestResumableGP(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return resumable(lambda seed: GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=True))


class TestResumableRandom(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Random numbers are drawn for each parameter by itself, so there are no relative cases."""

    @pytest.fixture
    def sampler(self):
        return resumable(lambda seed: RandomSampler(seed=seed))


class TestResumableNSGA2(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """The first generation is drawn for each parameter by itself, so there are no relative cases."""

    @pytest.fixture
    def sampler(self):
        return resumable(lambda seed: NSGAIISampler(seed=seed, population_size=24))
