import itertools
import math

import optuna
import pytest
from optuna.trial import TrialState

from diffusers_autonat import TrainingStrategy
from diffusers_autonat.search import GreedyLineSearchSampler, GridParameter, suggest, training_space


optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = training_space(TrainingStrategy(1, 0.5))


def bowl(params):
    """Least at the paper's Beta(12, 3); the best alpha depends on beta."""
    a, b = math.log(params["alpha"] / 12), math.log(params["beta"] / 3)
    return a * a + b * b - 0.3 * a * b


def line_search(f, space):
    """The paper's search, written down again: the accepted points."""
    names = list(space)
    node = [space[name].values.index(space[name].start) for name in names]

    def value(node):
        return f({name: space[name].values[i] for name, i in zip(names, node)})

    accepted = [tuple(node)]
    while True:
        before = list(node)
        for axis, name in enumerate(names):
            for step in (-1, 1):
                while 0 <= node[axis] + step < len(space[name].values):
                    neighbour = [*node[:axis], node[axis] + step, *node[axis + 1 :]]
                    if not value(neighbour) < value(node):
                        break
                    node = neighbour
                    accepted.append(tuple(node))
        if node == before:
            return accepted


def node_of(params, space):
    return tuple(space[name].values.index(params[name]) for name in space)


def run(f=bowl, space=SPACE, direction="minimize", n_jobs=1, **settings):
    study = optuna.create_study(sampler=GreedyLineSearchSampler(space, **settings), direction=direction)
    study.optimize(lambda trial: f(suggest(trial, space)), n_jobs=n_jobs, catch=(ArithmeticError,))
    return study


def evaluated(study, space=SPACE):
    return [node_of(trial.params, space) for trial in study.trials if trial.state == TrialState.COMPLETE]


@pytest.mark.parametrize("start", [(1, 0.5), (24, 6), (1, 6), (12, 3)])
def test_finds_the_published_strategy(start):
    space = training_space(TrainingStrategy(*start))
    study = run(space=space)
    assert study.best_params == {"alpha": 12.0, "beta": 3.0}
    nodes = evaluated(study, space)
    assert len(nodes) == len(set(nodes))  # nothing twice
    assert len(nodes) < len(space["alpha"].values) * len(space["beta"].values)
    path = line_search(bowl, space)
    assert set(path) <= set(nodes)
    assert path[-1] == node_of(study.best_params, space)
    assert accepted_of(nodes, space) == path


def accepted_of(nodes, space):
    """The best node so far, each once."""
    best = [
        min(nodes[: i + 1], key=lambda node: bowl(dict(zip(space, values_of(node, space))))) for i in range(len(nodes))
    ]
    return [node for node, _ in itertools.groupby(best)]


def values_of(node, space):
    return [space[name].values[i] for name, i in zip(space, node)]


def test_one_parameter_at_a_time():
    nodes = evaluated(run())
    accepted = accepted_of(nodes, SPACE)
    assert len(accepted) > 3
    for earlier, later in zip(accepted, accepted[1:]):
        assert sum(a != b for a, b in zip(earlier, later)) == 1
    assert nodes[:2] == [(0, 0), (1, 0)]  # the start together with its neighbour along alpha


def test_a_flat_objective_stops_at_the_start():
    study = run(lambda params: 1.0)
    assert set(evaluated(study)) == {(0, 0), (1, 0), (0, 1)}


def test_maximise():
    assert evaluated(run(lambda params: -bowl(params), direction="maximize")) == evaluated(run())


def test_threads_agree_with_one_worker():
    study = run(n_jobs=3)
    assert sorted(evaluated(study)) == sorted(evaluated(run()))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_point_without_a_value_is_never_better():
    def fails_at_the_minimum(params):
        if (params["alpha"], params["beta"]) == (12, 3):
            return math.nan
        return bowl(params)

    space = training_space(TrainingStrategy(8, 2))
    study = run(fails_at_the_minimum, space)
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(failed) == 2 and failed[0].params == failed[1].params == {"alpha": 12.0, "beta": 3.0}
    assert study.best_value == min(t.value for t in study.trials if t.state == TrialState.COMPLETE)
    assert study.best_params != {"alpha": 12.0, "beta": 3.0}


def test_a_start_without_a_value_is_left():
    def fails_at_the_start(params):
        if params["alpha"] == 1 and params["beta"] == 0.5:
            raise ArithmeticError("diverged")
        return bowl(params)

    assert run(fails_at_the_start).best_params == {"alpha": 12.0, "beta": 3.0}


def test_another_grid_is_refused():
    study = run()
    study.sampler = GreedyLineSearchSampler({**SPACE, "beta": GridParameter(0.5, (0.5, 1.0))})
    with pytest.raises(ValueError, match="other settings"):
        study.optimize(lambda trial: bowl(suggest(trial, SPACE)))
