"""Population search on images that are made of their strategy: what it finds, what it costs, and that it resumes."""

import math
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.metrics import Reference
from diffusers_autonat.metrics.conditions import class_conditions
from diffusers_autonat.metrics.noise import image_generators
from diffusers_autonat.search import FixedStepsSpace, StrategyObjective, open_storage, open_study, run_study
from diffusers_autonat.search.confirm import best_trials
from diffusers_autonat.search.constraints import PENALTY, Constraint
from diffusers_autonat.search.effects import Effects
from diffusers_autonat.search.population import (
    CERTAIN,
    EFFECTS,
    INFLUENCES,
    NOISE,
    POPULATION_KIND,
    RADIUS,
    PopulationSampler,
    PopulationScore,
    PopulationSpace,
    _Coordinate,
    _coordinates,
    _place,
    _point,
)
from diffusers_autonat.search.spaces import _SCHEDULES, DescentParameter
from diffusers_autonat.search.workers import slot_of


optuna.logging.set_verbosity(optuna.logging.ERROR)

START = GenerationStrategy([0.5, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0])
BEST = {"mask_ratios.0": 0.8, "sampling_temperatures.0": 2.0, "guidance_scales.1": 0.2}


def pull(strategy: GenerationStrategy) -> list[float]:
    """How far three parameters are from their best; the others have no effect."""
    return [
        strategy.mask_ratios[0] - 0.8,
        0.5 * math.log((strategy.sampling_temperatures[0] + 0.1) / 2.1),
        0.5 * (strategy.guidance_scales[1] - 0.2),
    ]


class Extractor:
    """Features of an image are its pixels."""

    name, num_features, batch_size = "pixels", 4, 32

    def __call__(self, images, indices):
        return images.flatten(1).float() / 255, None


class Evaluator:
    """Images of four grey levels: noise around the middle, moved by the strategy; counts what it makes."""

    def __init__(self):
        self.extractor, self.made = Extractor(), 0
        self.conditions = class_conditions("balanced", 3)
        features = 0.5 + 0.1 * torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
        self.reference = Reference(torch.full((4,), 0.5).double(), 0.01 * torch.eye(4).double(), features=features)

    def generation(self, num_images, seed, strategies):
        def make_images(indices, requests):
            self.made += len(indices)
            noise = torch.stack([torch.randn(4, generator=g) for g in image_generators(indices, seed)])
            moved = torch.tensor([[*pull(strategy), 0.0] for strategy in strategies])
            return (0.5 + 0.1 * noise + 0.3 * moved).clamp(0, 1).view(-1, 1, 2, 2)

        return make_images, None


def centre_score(strategy, trial):
    return sum(value**2 for value in pull(strategy))


def objective(evaluator, num_images=200, seed=0, metric="fid"):
    space = PopulationSpace(FixedStepsSpace(START))
    score = PopulationScore(evaluator, num_images, seed, centre_score, space, metric=metric)
    return space, StrategyObjective(space, score)


@pytest.mark.parametrize("metric", INFLUENCES)
def test_it_finds_what_matters_with_few_images(metric):
    evaluator = Evaluator()
    space, score = objective(evaluator, metric=metric)
    study = optuna.create_study(sampler=POPULATION_KIND.make(space.parameters, 42, 0, []))
    study.optimize(score)
    assert len(study.trials) == 42 and evaluator.made == 40 * 200
    ends = [trial for trial in study.trials if trial.params[NOISE] == 0]
    assert [trial.number for trial in ends] == [40, 41]
    assert study.trials[0].params["sampling_temperatures.0"] == pytest.approx(1.0)
    # The start is worth 0.37: a tenth of that is left at most.
    assert min(trial.value for trial in ends) < 0.037
    # What a population was worth is not what its centre is.
    assert {trial.number for trial in best_trials(study, 5)} == {40, 41}
    for name, value in BEST.items():
        assert abs(ends[-1].params[name] - value) < abs(space.parameters[name].start - value)


def test_a_restarted_search_goes_on_as_it_would_have(tmp_path):
    def run(folder, stops):
        storage = open_storage(folder / "search.journal")
        for num_trials in stops:
            space, score = objective(Evaluator())
            sampler = PopulationSampler(space.parameters, num_updates=3)
            study = open_study(storage, "search", {"about": "this"}, sampler)
            if num_trials:
                study.optimize(score, n_trials=num_trials)
            else:
                run_study(study, score, 8, progress=False)
        return [(trial.params, trial.value) for trial in study.trials]

    assert run(tmp_path / "a", [0]) == run(tmp_path / "b", [1, 4, 0])


def test_a_search_that_is_prolonged_goes_on(tmp_path):
    storage, evaluator = open_storage(tmp_path / "search.journal"), Evaluator()
    for num_trials in (6, 12):
        space, score = objective(evaluator)
        study = open_study(
            storage, "search", {"about": "this"}, POPULATION_KIND.make(space.parameters, num_trials, 0, [])
        )
        run_study(study, score, num_trials, progress=False)
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE}
    # What was measured at the end of the shorter one takes an update's place, without its images.
    assert [trial.params[NOISE] == 0 for trial in study.trials] == [False] * 4 + [True] * 2 + [False] * 4 + [True] * 2


def test_threads_share_an_update():
    def run(n_jobs):
        space, score = objective(Evaluator())
        study = optuna.create_study(sampler=PopulationSampler(space.parameters, num_updates=3))
        study.optimize(score, n_jobs=n_jobs)
        return {
            (tuple(t.params.items()), t.value) for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE
        }

    assert run(1) == run(2)


def test_a_failed_batch_is_left_out():
    space, score = objective(Evaluator())
    seen = []

    def failing(trial):
        value = score(trial)
        seen.append(trial.number)
        if len(seen) in (1, 2):
            raise ArithmeticError("broken")
        return value

    study = optuna.create_study(sampler=PopulationSampler(space.parameters, num_updates=2))
    study.optimize(failing, catch=(ArithmeticError,))
    assert [t.params[NOISE] for t in study.trials][-2:] == [0, 0]
    coordinates = _coordinates(space.parameters)
    [left] = [t for t in study.trials if slot_of(t)[0] == 0 and t.state == TrialState.COMPLETE]
    certainty = Effects.from_json(left.user_attrs[EFFECTS]).certainty
    moved = _place(coordinates, left.params) - RADIUS * (certainty / CERTAIN).clamp(-1, 1)
    second = next(t for t in study.trials if slot_of(t)[0] == 1)
    assert [second.params[name] for name in coordinates] == pytest.approx(
        list(_point(coordinates, moved.tolist()).values())
    )


def test_what_no_population_can_be_searched_with_is_refused():
    space, _ = objective(Evaluator())
    with pytest.raises(ValueError, match="space has the size of its noise too"):
        PopulationSampler(FixedStepsSpace(START).parameters)
    study = optuna.create_study(sampler=PopulationSampler(space.parameters, num_updates=2))
    with pytest.raises(ValueError, match="tells no slopes: score it with a `PopulationScore`"):
        study.optimize(StrategyObjective(space, centre_score))


class Doubtful(Extractor):
    """Recognises images whose second level, which tau1 decides, is above the middle."""

    def __call__(self, images, indices):
        features, _ = super().__call__(images, indices)
        known = (features[:, 1] > 0.5).long() * (indices // 2 % 3 * 2 % 3 + 1)  # the class that was asked for, or none
        return features, torch.nn.functional.one_hot((known - 1) % 4, 4).float()


def test_a_constraint_is_kept_at_the_expense_of_the_distance():
    def search(constraint):
        evaluator = Evaluator()
        evaluator.extractor = Doubtful()
        space = PopulationSpace(FixedStepsSpace(START, ["sampling_temperatures"]))
        score = PopulationScore(evaluator, 200, 0, centre_score, space, constraint=constraint)
        study = optuna.create_study(sampler=PopulationSampler(space.parameters, num_updates=10))
        study.optimize(StrategyObjective(space, score))
        return study.trials[-1].params["sampling_temperatures.0"]

    free, bound = search(None), search(Constraint("class_consistency", 0.9, True))
    assert free == pytest.approx(2.0, abs=0.4) and bound > free + 0.5


def test_a_penalty_multiplies_the_slopes_of_the_distance():
    """Where no image is recognised whatever is done, a distance counts 1 + PENALTY times, and so do its slopes."""

    class Blind(Extractor):
        def __call__(self, images, indices):
            features, _ = super().__call__(images, indices)
            return features, torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand(
                len(features), 4
            )  # the class that nobody asks for

    def slopes(constraint):
        evaluator = Evaluator()
        evaluator.extractor = Blind()
        space = PopulationSpace(FixedStepsSpace(START))
        study = optuna.create_study(sampler=PopulationSampler(space.parameters, num_updates=1))
        score = PopulationScore(evaluator, 200, 0, centre_score, space, constraint=constraint)
        study.optimize(StrategyObjective(space, score), n_trials=1)
        return Effects.from_json(study.trials[0].user_attrs[EFFECTS]).slopes

    free, bound = slopes(None), slopes(Constraint("class_consistency", 0.9, True))
    torch.testing.assert_close(bound, (1 + PENALTY) * free)


def test_only_recognition_can_be_kept():
    with pytest.raises(ValueError, match="no other constraint than that: kid<=1"):
        PopulationScore(Evaluator(), 4, 0, centre_score, PopulationSpace(FixedStepsSpace(START)), None,
                        Constraint("kid", 1.0, False))  # fmt: skip


@pytest.mark.parametrize("num_images", [201, 0, 12])  # of 6 parameters: so few pairs would fit any noise
def test_populations_are_of_pairs_and_more_than_parameters(num_images):
    with pytest.raises(ValueError, match=f"num_images = {num_images} must be an even number"):
        objective(Evaluator(), num_images)


def test_too_few_trials_are_refused():
    space, _ = objective(Evaluator())
    with pytest.raises(ValueError, match="3 trials are not enough for one update"):
        POPULATION_KIND.make(space.parameters, 3, 0, [])


def test_it_needs_a_reference():
    evaluator = SimpleNamespace(reference=None)
    with pytest.raises(ValueError, match="give the evaluator one"):
        PopulationScore(evaluator, 200, 0, centre_score, PopulationSpace(FixedStepsSpace(START)))


@pytest.mark.parametrize("schedule", sorted(_SCHEDULES))
def test_noise_suits_every_schedule(schedule):
    start = {"mask_ratios": 0.7, "remasking_rates": 0.05, "entropy_bounds": 25.0}.get(schedule, 1.0)
    [parameter] = [DescentParameter(start, **_SCHEDULES[schedule] | {"step": 1.0, "learning_rate": 1.0})]
    coordinate = _Coordinate(f"{schedule}.0", parameter)
    noise = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)
    values = torch.tensor([coordinate.back(coordinate.to(start) + x) for x in noise.tolist()])
    at_bounds = ((values <= parameter.low) | (values >= parameter.high)).float().mean()
    assert at_bounds < 0.06  # else the noise is another one than was asked for
    assert coordinate.back(coordinate.to(start)) == pytest.approx(start)
    lower, upper = values.quantile(0.16), values.quantile(0.84)
    assert lower < 0.85 * start and upper > 1.15 * start  # and it is large enough to tell something
