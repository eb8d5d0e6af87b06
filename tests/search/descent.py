"""The paper's descent written down again, and a quadratic objective to follow it on."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from diffusers_autonat.search import DescentParameter, FiniteDifferenceSampler, suggest
from diffusers_autonat.search.workers import CLAIM


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
