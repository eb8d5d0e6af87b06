"""From trials to values: spaces, common random numbers, rungs, cost, and what a pipeline's weights are called."""

import optuna
import pytest
import torch

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.cost.passes import PassCounter
from diffusers_autonat.search import (
    AnyStepsSpace,
    CurveSpace,
    EvaluatorScore,
    FixedStepsSpace,
    StrategyObjective,
    make_sampler,
    open_storage,
    open_study,
    run_study,
    strategy_of,
)
from diffusers_autonat.search.generation import rung_pruner


optuna.logging.set_verbosity(optuna.logging.ERROR)

START = GenerationStrategy.cosine(4)


class FakeEvaluator:
    """Remembers what it is asked; its distance is the mean guidance scale, larger with fewer images."""

    def __init__(self):
        self.calls = []

    def __call__(self, num_images, seed=0, strategy=None):
        self.calls.append((num_images, seed))
        return {"class_consistency": 0.5, "frechet_distance": sum(strategy.guidance_scales) / 4 + 10 / num_images}

    def rungs(self, num_images, seed=0, strategy=None):
        for count in num_images:
            yield count, self(count, seed, strategy)


def run(score, sampler="random", num_trials=6, pruner=None, space=None, **settings):
    space = space or FixedStepsSpace(START, ["guidance_scales"])
    study = optuna.create_study(sampler=make_sampler(sampler, space.parameters, num_trials), pruner=pruner)
    study.optimize(StrategyObjective(space, score, **settings), n_trials=num_trials)
    return study


def test_trials_share_their_noise():
    evaluator = FakeEvaluator()
    study = run(EvaluatorScore(evaluator, 100, seed=7))
    assert evaluator.calls == [(100, 7)] * 6
    assert study.trials[0].user_attrs["values"]["class_consistency"] == 0.5
    assert study.trials[0].user_attrs["num_images"] == 100
    assert strategy_of(study.trials[0]) == START
    assert study.trials[3].value == study.trials[3].user_attrs["values"]["frechet_distance"]


def test_a_trial_says_how_many_passes_it_took():
    transformer = torch.nn.Identity()

    class Evaluator(FakeEvaluator):
        def __call__(self, num_images, seed=0, strategy=None):
            transformer(torch.zeros(num_images, 5))
            return super().__call__(num_images, seed, strategy)

    score = EvaluatorScore(Evaluator(), 100, passes=PassCounter(transformer))
    assert [trial.user_attrs["passes"] for trial in run(score, num_trials=3).trials] == [100] * 3


def test_noise_is_redrawn_when_asked():
    evaluator = FakeEvaluator()
    run(EvaluatorScore(evaluator, 100, seed=7, redraw=True))
    assert [seed for _, seed in evaluator.calls] == [7, 8, 9, 10, 11, 12]
    evaluator = FakeEvaluator()
    run(EvaluatorScore(evaluator, 100, seed=7, redraw=True), "released", 11)
    assert [seed for _, seed in evaluator.calls] == [7] * 5 + [8] * 5 + [9]  # the points of an update share it


def test_rungs_give_bad_trials_up():
    evaluator = FakeEvaluator()
    study = run(EvaluatorScore(evaluator, 100, rungs=[10, 50]), num_trials=30, pruner=rung_pruner())
    pruned = [t for t in study.trials if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned and all(t.user_attrs["num_images"] in (10, 50) for t in pruned)
    assert study.best_trial.user_attrs["num_images"] == 100
    assert len(evaluator.calls) == sum([10, 50, 100].index(t.user_attrs["num_images"]) + 1 for t in study.trials)


def test_a_metric_by_the_name_that_the_extractor_gives_it():
    for name in ("fid", "frechet_distance"):
        score = EvaluatorScore(lambda num_images, seed, strategy, name=name: {"other": 1.0, name: 2.0}, 10)
        assert run(score, num_trials=1).best_value == 2.0


def test_steps_of_any_number_share_parameters():
    starts = [GenerationStrategy.cosine(steps) for steps in (4, 8)]
    space = AnyStepsSpace(starts)
    assert set(space.parameters) == set(FixedStepsSpace(starts[0]).parameters)
    assert space.strategy(space.first_points()[0], 4) == GenerationStrategy(
        **{**starts[0].to_dict(), "remasking_temperatures": [4.5, 3.375, 2.25, 2.25]}
    )
    long = space.strategy(space.first_points()[2], 8)
    assert long.num_inference_steps == 8
    assert long.mask_ratios[1::2] == starts[0].mask_ratios  # the knots lie at every second step
    assert long.mask_ratios[0] == pytest.approx((1 + starts[0].mask_ratios[0]) / 2)
    assert list(long.mask_ratios) == sorted(long.mask_ratios, reverse=True)


def test_curves_have_as_many_parameters_as_knots():
    start = GenerationStrategy.cosine(7)
    space = CurveSpace(start, 4)
    assert set(space.parameters) == set(FixedStepsSpace(GenerationStrategy.cosine(4)).parameters)
    params = {name: parameter.start for name, parameter in space.parameters.items()}
    assert space.strategy(params) == space.start and space.start.num_inference_steps == 7
    assert space.start.mask_ratios[::2] == pytest.approx(start.mask_ratios[::2])  # there are the knots
    assert space.start.guidance_scales == pytest.approx(start.guidance_scales)  # straight, as the heuristic's are
    assert space.start.remasking_temperatures[:5] == pytest.approx(start.remasking_temperatures[:5])
    bent = space.strategy({**params, "sampling_temperatures.1": 0.0})  # the second knot is the third step
    assert bent.sampling_temperatures == (1, 0.5, 0, 0.5, 1, 1, 1)
    flat = space.strategy({**params, "remasking_temperatures.2": 1.0})  # nothing is known of the last step
    assert flat.remasking_temperatures[4:] == (1, 1, 1)


def test_a_curve_at_its_clamp_is_off_and_what_is_not_free_stays():
    start = GenerationStrategy.cosine(5)
    space = CurveSpace(start, 3, ["guidance_scales"])
    found = space.strategy({"guidance_scales.0": 1e-4, "guidance_scales.1": 1e-4, "guidance_scales.2": 2.0})
    assert found.guidance_scales == (0, 0, 0, 1, 2)
    assert found.mask_ratios == start.mask_ratios and found.remasking_temperatures == start.remasking_temperatures


@pytest.mark.parametrize("num_knots", [1, 5])
def test_curves_have_two_knots_at_least_and_one_for_each_step_at_most(num_knots):
    with pytest.raises(ValueError, match=f"{num_knots} knots: curves of 4 steps have 2 to 4"):
        CurveSpace(START, num_knots)


def test_guidance_can_be_off():
    space = AnyStepsSpace([GenerationStrategy.cosine(4), GenerationStrategy.cosine(8)])
    off = space.first_points()[1]
    assert space.strategy(off, 4).guidance_scales == (0.0,) * 4
    half = {**off, "guidance_scales.2": 2.0, "guidance_scales.3": 2.0}
    assert space.strategy(half, 8).guidance_scales == pytest.approx((0, 0, 0, 0, 0, 2, 2, 2))


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_front_of_quality_and_cost(tmp_path, sampler):
    space = AnyStepsSpace([GenerationStrategy.cosine(2), GenerationStrategy.cosine(3)], ["guidance_scales"])

    def cost(strategy):
        return strategy.num_inference_steps + sum(s > 0 for s in strategy.guidance_scales)

    study = open_study(
        open_storage(tmp_path / "s"), "s", {}, make_sampler(sampler, space.parameters, 40, 0, space.first_points()),
        ["minimize", "minimize"],
    )  # fmt: skip
    objective = StrategyObjective(space, lambda strategy, trial: abs(3 - sum(strategy.guidance_scales)), cost)
    run_study(study, objective, 40, progress=False)
    first = [(t.params["num_inference_steps"], t.values[1]) for t in study.trials[:4]]
    assert first == [(2, 4), (2, 2), (3, 6), (3, 3)]
    assert {cost(strategy_of(t)) == t.values[1] for t in study.trials} == {True}
    assert len({t.values[1] for t in study.best_trials}) >= 2


def test_nothing_free():
    with pytest.raises(ValueError, match="nothing is free"):
        FixedStepsSpace(START, [])
    with pytest.raises(ValueError, match="one start for each number of steps"):
        AnyStepsSpace([START, START])
