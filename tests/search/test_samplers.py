"""Samplers by name, and the registry that a new one joins with one line."""

import itertools

import optuna
import pytest

from diffusers_autonat.search import DescentParameter, FiniteDifferenceSampler, make_sampler, suggest


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    "x": DescentParameter(start=0.0, low=-2.0, high=2.0, step=0.1, learning_rate=0.1),
    "y": DescentParameter(start=1.5, low=-2.0, high=2.0, step=0.2, learning_rate=0.2),
}


def value(trial):
    params = suggest(trial, SPACE)
    return (params["x"] - 0.3) ** 2 + (params["y"] - 1.1) ** 2


def test_not_enough_trials_for_an_update():
    with pytest.raises(ValueError, match="3 trials are not enough for one update, which takes 9"):
        make_sampler("finite-difference", SPACE, 3)
    with pytest.raises(ValueError, match="no sampler 'bayes'"):
        make_sampler("bayes", SPACE, 3)


def search_path(name, factor):
    """Values of the best trial so far, in units of `factor`, and the points of all trials."""
    study = optuna.create_study(sampler=make_sampler(name, SPACE, 60))
    study.optimize(lambda trial: factor * value(trial))
    assert isinstance(study.sampler, FiniteDifferenceSampler) and len(study.trials) <= 60
    return list(itertools.accumulate((t.values[0] / factor for t in study.trials), min)), [
        t.params for t in study.trials
    ]


def test_line_search_does_not_depend_on_the_scale_of_the_value():
    """A learning rate does: where slopes are small, the released descent crawls."""
    small, points = search_path("finite-difference", 0.03125)
    large, same = search_path("finite-difference", 1.0)
    assert points[:20] == [pytest.approx(point, rel=1e-9) for point in same[:20]]
    assert min(large) < 1e-3
    released, _ = search_path("released", 0.03125)
    assert small[19] < released[-1] / 3
