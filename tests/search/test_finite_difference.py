import math
import threading
import time
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState

from diffusers_autonat.search import DescentParameter, FiniteDifferenceSampler, suggest
from diffusers_autonat.search.finite_difference import CLAIM


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    "a": DescentParameter(start=0.2, low=0.0, high=0.99, step=0.01, learning_rate=0.01),
    "b": DescentParameter(start=3.0, low=1e-4, high=6.0, step=0.1, learning_rate=0.1),
    "c": DescentParameter(start=0.05, low=1e-4, high=6.0, step=0.1, learning_rate=0.1),
}
CENTRE = {"a": 0.7, "b": 1.3, "c": -1.0}  # c runs into its lower clamp


def quadratic(params):
    return sum((value - CENTRE[name]) ** 2 for name, value in params.items()) + 0.3 * params["a"] * params["b"]


def descend(f, space, num_updates, central=False, momentum=0.5, max_gradient=math.inf):
    """Algorithm of the paper, written down again: the points after each update."""
    names = list(space)
    x = [space[name].start for name in names]
    v = [0.0] * len(x)
    path = [dict(zip(names, x))]
    for _ in range(num_updates):
        gradient = []
        for i, name in enumerate(names):
            p = space[name]

            def at(value):
                return f(dict(zip(names, [*x[:i], value, *x[i + 1 :]])))

            if central:
                upper, lower = min(x[i] + p.step, p.high), max(x[i] - p.step, p.low)
                slope = (at(upper) - at(lower)) / (upper - lower)
            elif x[i] + p.step <= p.high:
                slope = (at(x[i] + p.step) - at(x[i])) / p.step
            else:
                slope = (at(x[i]) - at(x[i] - p.step)) / p.step
            gradient.append(min(max(slope, -max_gradient), max_gradient))
        v = [momentum * vi + gi for vi, gi in zip(v, gradient)]
        x = [
            min(max(xi - space[name].learning_rate * vi, space[name].low), space[name].high)
            for name, xi, vi in zip(names, x, v)
        ]
        path.append(dict(zip(names, x)))
    return path


def base_points(study):
    """The points after each update, as the study evaluated them."""
    slots = {tuple(t.system_attrs[CLAIM]["slot"]): t.params for t in study.trials if t.state == TrialState.COMPLETE}
    return [slots[slot] for slot in sorted(slots) if slot[1] == 0]


def run(f=quadratic, space=SPACE, direction="minimize", n_jobs=1, **settings):
    study = optuna.create_study(sampler=FiniteDifferenceSampler(space, **settings), direction=direction)
    study.optimize(lambda trial: f(suggest(trial, space)), n_jobs=n_jobs, catch=(ArithmeticError,))
    return study


def assert_same_path(path, expected, tolerance=1e-12):
    assert len(path) == len(expected)
    for point, other in zip(path, expected):
        assert point == pytest.approx(other, rel=0, abs=tolerance)


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


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_threads_take_different_points(storage, tmp_path):
    """All of an update runs in parallel, nothing twice, and the path does not depend on the order."""
    barrier = threading.Barrier(4)

    def slow(trial):
        if trial.number < 4:
            barrier.wait(timeout=120)  # passes only if the base point and its three perturbations are all running
        time.sleep(0.001 * (trial.number * 7 % 5))
        return quadratic(suggest(trial, SPACE))

    url = storage and f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=3), storage=url)
    study.optimize(slow, n_jobs=4)
    assert_same_path(base_points(study), descend(quadratic, SPACE, 3))
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == 3 * 4 + 1
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


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


def test_ask_and_tell_beyond_the_round():
    """A thread that asks for more than a round without telling gets an error instead of waiting for itself."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=1))
    trials = [study.ask() for _ in range(4)]
    with pytest.raises(RuntimeError, match=r"tell the values of trials \[0, 1, 2, 3\]"):
        study.ask()
    for trial in reversed(trials):
        study.tell(trial, quadratic(suggest(trial, SPACE)))
    trial = study.ask()
    study.tell(trial, quadratic(suggest(trial, SPACE)))
    assert_same_path([trials[0].params, trial.params], descend(quadratic, SPACE, 1))
    with pytest.raises(optuna.TrialPruned, match="ended"):
        suggest(study.ask(), SPACE)


def test_enqueued_trials_take_no_point():
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=2))
    study.enqueue_trial({"a": 0.9})
    study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert study.trials[0].params == {"a": 0.9, "b": 3.0, "c": 0.05}
    assert_same_path([t.params for t in study.trials[1::4]], descend(quadratic, SPACE, 2))


def test_copied_trials_take_no_point():
    """Such as those of Optuna's callback that retries what its heartbeat has failed."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=2))
    original = study.ask()
    suggest(original, SPACE)
    study._storage.set_trial_state_values(original._trial_id, TrialState.FAIL)
    copied = study.trials[0]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=copied.params,
            distributions=copied.distributions,
            system_attrs=copied.system_attrs,
        )
    )
    study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert_same_path([t.params for t in study.trials[2::4]], descend(quadratic, SPACE, 2))


def test_interrupted_while_waiting(monkeypatch):
    """A worker that is stopped by Ctrl-C leaves the queue."""
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE, num_updates=1))
    thread = threading.Thread(target=lambda: [study.ask() for _ in range(4)])
    thread.start()
    thread.join()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.ask()
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 4 + ["FAIL"]


def test_other_settings_are_refused():
    study = run(num_updates=1)
    study.sampler = FiniteDifferenceSampler(SPACE, momentum=0.9)
    with pytest.raises(ValueError, match=r"other settings.*'momentum': \(0.5, 0.9\)"):
        study.optimize(lambda trial: quadratic(suggest(trial, SPACE)))
    assert study.trials[-1].state == TrialState.FAIL


def test_range_of_the_objective_must_hold_the_space():
    study = optuna.create_study(sampler=FiniteDifferenceSampler(SPACE))
    with pytest.raises(ValueError, match="the objective asks for b"):
        study.optimize(lambda trial: trial.suggest_float("b", 0.0, 1.0), n_trials=1)


def test_empty_space():
    with pytest.raises(ValueError, match="nothing free"):
        FiniteDifferenceSampler({})


class TestOptunaBasic(BasicSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's own cases; their parameters are not in the space, so this is the independent fallback."""

    @pytest.fixture
    def sampler(self):
        return lambda: FiniteDifferenceSampler(SPACE)


FLOATS = [FloatDistribution(-1.0, 1.0), FloatDistribution(0.5, 0.51), FloatDistribution(-1e6, 0.0)]


class TestOptunaRelative(RelativeSamplerTestCase):
    """Optuna's own cases with parameters in the space: those with continuous parameters on a linear scale."""

    test_sample_relative_categorical = None
    test_sample_relative_mixed = None

    @pytest.fixture
    def sampler(self, request):
        arguments = request.node.callspec.params
        distributions = {name: arguments.get(f"{name}_distribution", FloatDistribution(-10, 10)) for name in "xy"}
        space = {name: DescentParameter(d.low, d.low, d.high, 0.1, 0.1) for name, d in distributions.items()}
        return lambda: FiniteDifferenceSampler(space)

    @pytest.mark.parametrize("x_distribution", FLOATS)
    @pytest.mark.parametrize("y_distribution", FLOATS)
    def test_sample_relative_numerical(self, sampler, x_distribution, y_distribution):
        super().test_sample_relative_numerical(sampler, x_distribution, y_distribution)
