import math
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from diffusers_autonat.search import DescentParameter, FiniteDifferenceSampler, suggest
from tests.search.descent import CENTRE, SPACE, assert_same_path, base_points, descend, quadratic, run


optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("max_gradient", [None, 0.8])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_equals_descent_written_by_hand(central, max_gradient, momentum):
    study = run(central=central, momentum=momentum, max_gradient=max_gradient, num_updates=25)
    expected = descend(quadratic, SPACE, 25, central, momentum, max_gradient or math.inf)
    assert_same_path(base_points(study), expected)
    assert expected[-1]["c"] == SPACE["c"].low  # the clamp was reached


def test_number_of_trials():
    study = run(num_updates=7)
    assert len(study.trials) == 7 * (len(SPACE) + 1) + 1
    study.optimize(lambda trial: suggest(trial, SPACE) and 1.0)  # the search has ended: one pruned trial, then stop
    assert [t.state for t in study.trials[-2:]] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_converges():
    space = {name: replace(parameter, learning_rate=0.1) for name, parameter in SPACE.items()}
    study = run(lambda params: sum((params[name] - CENTRE[name]) ** 2 for name in params), space, num_updates=30)
    # One-sided differences settle half a step before the minimum; c stays on its clamp.
    expected = {name: CENTRE[name] - space[name].step / 2 for name in "ab"} | {"c": space["c"].low}
    assert base_points(study)[-1] == pytest.approx(expected, abs=1e-3)


def test_upper_bound_steps_inwards():
    space = {"x": DescentParameter(start=1.0, low=0.0, high=1.0, step=0.1, learning_rate=0.1)}
    study = run(lambda params: -params["x"], space, num_updates=2)
    assert [trial.params["x"] for trial in study.trials] == [1.0, 0.9, 1.0, 0.9, 1.0]


def test_maximise():
    study = run(lambda params: -quadratic(params), direction="maximize", num_updates=10)
    assert_same_path(base_points(study), descend(quadratic, SPACE, 10))


def test_prolonged_search():
    study = run(num_updates=4)
    study.sampler = FiniteDifferenceSampler(SPACE, num_updates=9)
    study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert_same_path(base_points(study), descend(quadratic, SPACE, 9))
    assert len(study.trials) == 9 * 4 + 1


@pytest.mark.parametrize("central", [False, True])
def test_a_perturbation_without_a_value_has_no_gradient(central):
    """One that fails twice leaves its parameter alone; with central differences the other side and the base remain."""

    def broken_above(params):
        if params["b"] > 3.05:
            raise ArithmeticError("out of memory")
        return quadratic(params)

    study = run(broken_above, central=central, num_updates=1)
    first, last = base_points(study)
    f, step = quadratic, SPACE["b"].step
    slope = (f(first) - f({**first, "b": first["b"] - step})) / step if central else 0.0
    assert last["b"] == pytest.approx(first["b"] - 0.1 * slope, abs=1e-12)
    assert last["a"] != first["a"]
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert [trial.params["b"] for trial in failed] == [3.1, 3.1]


def test_a_failure_that_does_not_repeat_changes_nothing():
    calls = []

    def flaky(params):
        calls.append(params)
        return math.nan if len(calls) in (1, 6, 11) else quadratic(params)

    study = run(flaky, num_updates=5)
    assert_same_path(base_points(study), descend(quadratic, SPACE, 5))
    assert len(study.trials) == 5 * 4 + 1 + 3


def test_pruned_and_infinite_values_have_no_gradient():
    def objective(params):
        if params["a"] > 0.205:
            raise optuna.TrialPruned
        return math.inf if params["b"] > 3.05 else quadratic(params)

    first, last = base_points(run(objective, num_updates=1))
    assert (last["a"], last["b"]) == (first["a"], first["b"])
    assert last["c"] != first["c"]
