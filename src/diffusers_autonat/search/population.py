"""Population search: every image of a batch draws its own strategy, so that every image is an experiment.

A pipeline takes one strategy for each image. Those of a batch are the centre plus noise; what an image adds to the
distance (`INFLUENCES`), regressed on its noise, gives the slope of the distance in all parameters at once. So an update
costs as many images as a distance does, however many parameters there are, where finite differences need two distances
for each parameter.

An Optuna trial is one batch around the centre that its parameters are; several make an update. All that later trials
need is in its user attributes, so workers share an update and a killed search goes on, as with other samplers in rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor
from torchmetrics import MetricCollection

from ..cost.passes import PassCounter
from ..metrics import METRICS as METRICS_BY_NAME
from ..metrics import Evaluator, Reference
from ..metrics.extractors.base import to_uint8
from ..metrics.influence import BANK, FrechetInfluence, Influence, Population
from ..metrics.kernel_influence import KernelInfluence
from ..strategies import Strategy
from .constraints import PENALTY, Constraint
from .effects import CONSISTENT, Effects
from .interface import Point, SamplerKind
from .objective import METRICS, POPULATION, EvaluatorScore, Score
from .replay import ReplayingEvaluator
from .rounds import Rounds, RoundSampler
from .spaces import DescentParameter, suggest
from .strategy_spaces import OneLengthSpace
from .workers import slot_of


NOISE = "noise"  # parameter of a trial: size of the noise in units of `_Coordinate`; 0: the centre itself is measured
RECOGNISED = "class_consistency"
# By metric: what an image adds to that distance to a reference.
INFLUENCES: Mapping[str, Callable[[Reference], Influence]] = {"fid": FrechetInfluence, "kid": KernelInfluence}
EFFECTS = "effects"  # trial user attribute: the slopes that a population showed

BATCHES = 2  # trials that make an update
MEMORY = 0.5  # weight of an update's slopes in the next one's
RADIUS = 0.5  # longest move of a parameter, in noise
CERTAIN = 3.0  # standard errors from which on a slope is worth the longest move
SETTLED = 0.85  # of the noise when the whole centre has


class _Coordinate:
    """A parameter on the scale on which noise of one size suits all its values: logit of r, s, and of all else a logarithm that
    ends at 0: there is little between a tenth and none at all of a temperature (tau1, tau2), between a hundredth and none of a share
    (eta), or between a nat and none (gamma)."""

    unit = 0.6  # standard deviation of noise of size 1
    softness: Mapping[str, float] = {
        "sampling_temperatures": 0.25, "remasking_temperatures": 0.25, "remasking_rates": 0.025, "entropy_bounds": 1.0
    }  # fmt: skip

    def __init__(self, name: str, parameter: DescentParameter):
        self.low, self.high = parameter.low, parameter.high
        schedule = name.partition(".")[0]
        if schedule == "mask_ratios":
            self.low = 0.01
            self._to, self._back = (lambda r: math.log(r / (1 - r))), (lambda x: 1 / (1 + math.exp(-x)))
        elif schedule in self.softness:
            soft = self.softness[schedule]
            self._to, self._back = (lambda value: math.log(value + soft)), (lambda x: math.exp(x) - soft)
        else:
            self._to = self._back = float

    def to(self, value: float) -> float:
        """In noise of size 1."""
        return self._to(min(max(value, self.low), self.high)) / self.unit

    def back(self, x: float) -> float:
        """The parameter's value, within its bounds."""
        return min(max(self._back(self.unit * x), self.low), self.high)


def _coordinates(space: Mapping[str, DescentParameter]) -> dict[str, _Coordinate]:
    return {name: _Coordinate(name, parameter) for name, parameter in space.items() if name != NOISE}


def _point(coordinates: Mapping[str, _Coordinate], xs: Sequence[float]) -> Point:
    """The parameters at a place, within their bounds."""
    return {name: one.back(x) for (name, one), x in zip(coordinates.items(), xs)}


def _place(coordinates: Mapping[str, _Coordinate], point: Mapping[str, float]) -> Tensor:
    """Where parameters are `[P]`."""
    return torch.tensor([one.to(point[name]) for name, one in coordinates.items()], dtype=torch.float64)


class PopulationSpace:
    """A space and the noise around its points.

    Args:
        space: Of strategies of one length.
    """

    def __init__(self, space: OneLengthSpace):
        self.space, self.start = space, space.start
        noise = DescentParameter(start=1.0, low=0.0, high=4.0, step=1.0, learning_rate=1.0)
        self.parameters: Mapping[str, DescentParameter] = {**space.parameters, NOISE: noise}

    def suggest(self, trial: optuna.Trial) -> Any:
        return self.strategy(suggest(trial, self.parameters))

    def strategy(self, params: Mapping[str, float]) -> Any:
        """That of the centre."""
        return self.space.strategy({name: value for name, value in params.items() if name != NOISE})


def check_population(num_images: int, space: OneLengthSpace, constraint: Constraint | None) -> None:
    """
    Raises:
        ValueError: a trial's images are no pairs, or too few to tell so many parameters' slopes from noise; or the constraint
            is another than on what is recognised.
    """
    if constraint is not None and (constraint.name != RECOGNISED or not constraint.at_least):
        raise ValueError(
            f"a population keeps {RECOGNISED}>=BOUND and no other constraint than that: {constraint} takes another --sampler"
        )
    fewest = 2 * (len(_coordinates(space.parameters)) + 1)
    if num_images % 2 or num_images < fewest:
        raise ValueError(
            f"a population is of pairs, more than there are parameters: num_images = {num_images} must be an even number from {fewest}"
        )


class PopulationScore:
    """Score a batch of images whose strategies are noise around a trial's; its distance is the value.

    Each trial has noise of its own, in antithetic pairs: two images of one class and one noise of the pipeline, and
    opposite noise of the parameters. With noise 0 the trial's own strategy is measured, as every other sampler's is.

    Args:
        evaluator: Generates and measures.
        num_images: Of a trial, a multiple of two.
        seed: Of everything that is drawn.
        centre_score: What a trial without noise is worth.
        space: Of the trials.
        passes: Watches the transformer; then a trial says how many passes it took.
        constraint: On the share of images that are recognised as what they were asked to be, if any.
        metric: A key of `INFLUENCES`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        num_images: int,
        seed: int,
        centre_score: Score,
        space: PopulationSpace,
        passes: PassCounter | None = None,
        constraint: Constraint | None = None,
        metric: str = "fid",
    ):
        check_population(num_images, space, constraint)
        if evaluator.reference is None:
            raise ValueError("a population is compared with a reference: give the evaluator one")
        self.evaluator, self.reference = evaluator, evaluator.reference
        self.num_images, self.seed, self.centre_score = num_images, seed, centre_score
        self.space, self.coordinates, self.passes = space, _coordinates(space.parameters), passes
        self.constraint, self.metric, self.influence = constraint, metric, INFLUENCES[metric](self.reference)

    def __call__(self, strategy: Strategy, trial: optuna.Trial) -> float:
        if trial.params[NOISE] == 0:
            return self.centre_score(strategy, trial)
        turn, place = slot_of(trial.study._storage.get_trial(trial._trial_id)) or (0, trial.number)
        seed = int(np.random.SeedSequence([self.seed, turn, place]).generate_state(1)[0])
        shape, generator = (self.num_images // 2, len(self.coordinates)), torch.Generator().manual_seed(seed)
        half = torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = torch.stack([half, -half], dim=1).flatten(0, 1)  # [n, P]
        before = 0 if self.passes is None else self.passes.count
        features, recognised = self._images(self._strategies(trial.params, noise), seed)
        if self.passes is not None:
            trial.set_user_attr("passes", self.passes.count - before)
        seen = self.influence.project(features)
        rewards = self.influence.of_update(seen, self._bank(trial.study, turn))
        remembered = self.influence.remembered(seen)
        value = self._distance(features)
        if self.constraint is not None:
            values = {RECOGNISED: recognised.mean().item()}
            if self.constraint.violation(values) > 0:  # then every recognised image makes the penalty smaller
                # The slope of a product, of distance and penalty.
                rewards = rewards * self.constraint.penalised(1.0, values)
                rewards -= PENALTY * value / self.constraint.bound * recognised
            value = self.constraint.penalised(value, values)
        effects = Effects.of_pairs(half, rewards.view(-1, 2))
        trial.set_user_attr("seed", seed)
        trial.set_user_attr("num_images", self.num_images)
        trial.set_user_attr(POPULATION, {} if remembered is None else remembered.to_json())
        trial.set_user_attr(EFFECTS, effects.to_json())
        return value

    def _distance(self, features: Tensor) -> float:
        """That of the images of a trial."""
        built = METRICS_BY_NAME[self.metric].build(self.evaluator.extractor, len(features), self.reference)
        distance = MetricCollection({self.metric: built})
        distance.update(features=features, indices=torch.arange(len(features)))
        values = distance.compute()
        return next(values[name].item() for name in METRICS[self.metric] if name in values)

    def _strategies(self, params: Mapping[str, float], noise: Tensor) -> list[Strategy]:
        """One for each row of noise."""
        centre = _place(self.coordinates, params)
        points = (centre + params[NOISE] * noise).tolist()
        return [self.space.strategy(_point(self.coordinates, point)) for point in points]

    @torch.no_grad()
    def _images(self, strategies: list[Strategy], seed: int) -> tuple[Tensor, Tensor]:
        """
        Features `[n, D]` of images with these strategies, and `[n]` 1 for those that are recognised; two by two they share
        what they are asked for and noise.
        """
        extractor = self.evaluator.extractor
        pairs = self.evaluator.conditions.requests(len(strategies) // 2, seed)
        features, recognised = [], []
        for rows in torch.arange(len(strategies)).split(extractor.batch_size):
            make_images, _ = self.evaluator.generation(1, seed, [strategies[row] for row in rows])
            asked = pairs[rows // 2]
            seen, logits = extractor(to_uint8(make_images(rows // 2, asked)), rows)
            features.append(seen.cpu())
            if self.constraint is not None:
                recognised.append(logits.argmax(dim=1).cpu() == asked.class_labels)
        return torch.cat(features), torch.cat(recognised).double() if recognised else torch.empty(0)

    @staticmethod
    def _bank(study: optuna.Study, turn: int) -> list[Population]:
        """What the updates before have seen, around their own means and faded: the same for all trials of an update."""
        trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        found = [(slot, trial) for trial in trials if (slot := slot_of(trial)) and turn - BANK <= slot[0] < turn]
        return [
            Population.from_json(trial.user_attrs[POPULATION]).faded(turn - slot[0])
            for slot, trial in sorted(found, key=lambda one: one[0])
            if trial.user_attrs.get(POPULATION)  # none: where a search that was prolonged had measured its end
        ]


class PopulationSampler(RoundSampler):
    """Descent on the slopes that a population around the centre shows.

    An update is `batches` trials at one centre. Their slopes are averaged with those of the updates before, which count
    less and less. Every parameter moves as far as its slope is certain, the error of the slope being the unit: sizes of
    slopes differ by orders between parameters, errors hardly do. The longest move is `radius` times the noise, and none
    goes further than to where the last two slopes say that there is none left. Where the slopes as a whole point back, the
    noise shrinks. At the end the last centre and the mean of the later ones are measured without noise, with the same images, and compete.

    Args:
        space: From `PopulationSpace`.
        num_updates: Length of the search; it may be raised to prolong a study.
        batches: Trials of an update.
        radius: Length of the longest move in units of the noise.
        stale_after, independent_sampler: See `RoundSampler`.

    Raises:
        ValueError: the space has no noise; later, when a trial of a population was scored by something else than a `PopulationScore`.
    """

    def __init__(
        self,
        space: Mapping[str, DescentParameter],
        num_updates: int = 10,
        batches: int = BATCHES,
        radius: float = RADIUS,
        stale_after: float | None = None,
        independent_sampler: BaseSampler | None = None,
    ):
        if NOISE not in space:
            raise ValueError(f"a population's space has the size of its {NOISE} too: take that of a `PopulationSpace`")
        super().__init__(space, stale_after, independent_sampler)
        self._num_updates, self._batches, self._radius = num_updates, batches, radius
        self._coordinates = _coordinates(space)

    def _settings(self) -> dict[str, Any]:
        return {"batches": self._batches, "radius": self._radius}

    def _outcome(self, attempts: Sequence[FrozenTrial], sign: float) -> Any:
        """The effects that a trial saw, where it saw any."""
        value = super()._outcome(attempts, sign)
        done = [trial for trial in attempts if trial.state == TrialState.COMPLETE]
        if any(EFFECTS not in trial.user_attrs and trial.params[NOISE] > 0 for trial in done):
            raise ValueError(
                "a trial with noise tells no slopes: score it with a `PopulationScore`, which sees every image"
            )
        seen = [trial for trial in done if EFFECTS in trial.user_attrs]
        return Effects.from_json(seen[0].user_attrs[EFFECTS]) if seen else value

    def _rounds(self) -> Rounds:
        coordinates = self._coordinates
        centre = _place(coordinates, {name: self._space[name].start for name in coordinates})
        centres, noise, known, last, moved = [centre], 1.0, None, None, torch.zeros_like(centre)
        for _ in range(self._num_updates):
            outcomes = yield [{**_point(coordinates, centre.tolist()), NOISE: noise}] * self._batches
            seen = [outcome for outcome in outcomes if isinstance(outcome, Effects)]
            if not seen:  # all failed
                continue
            now = Effects.mean_of(seen).scaled(1 / noise)  # in noise of size 1, as the centre is
            if torch.dot(now.certainty, moved) > 0:  # the slopes point back
                noise *= SETTLED
            known = now if known is None else known.remembered(now, MEMORY)
            step = noise * self._radius * (known.certainty / CERTAIN).clamp(-1, 1)
            if last is not None:
                # No further than to where the slope will be zero, if it goes on as it changed with the last move.
                change, error = now.slopes - last.slopes, torch.hypot(now.slope_errors, last.slope_errors)
                reach = (known.slopes * moved / change).abs()
                step = torch.where(change * moved.sign() > CONSISTENT * error, step.clamp(-reach, reach), step)
            last = now
            # Bounds hold for the centre too, which would otherwise wander off where nothing changes.
            before, centre = centre, _place(coordinates, _point(coordinates, (centre - step).tolist()))
            moved = centre - before
            centres.append(centre)
        late = torch.stack(centres[len(centres) // 2 :]).mean(dim=0)
        yield [{**_point(coordinates, one.tolist()), NOISE: 0.0} for one in (centre, late)]


def _make(
    space: Mapping[str, DescentParameter], num_trials: int, seed: int, starts: Sequence[Mapping[str, Any]]
) -> PopulationSampler:
    num_updates = (num_trials - 2) // BATCHES
    if num_updates < 1:
        raise ValueError(
            f"{num_trials} trials are not enough for one update, which takes {BATCHES}, and two at the end"
        )
    return PopulationSampler(space, num_updates)


def _score(score: EvaluatorScore, space: OneLengthSpace) -> Score:
    evaluator = score.evaluator
    if isinstance(evaluator, ReplayingEvaluator):
        evaluator = evaluator.evaluator  # images of a population share nothing
    assert isinstance(evaluator, Evaluator) and isinstance(space, PopulationSpace)
    return PopulationScore(
        evaluator, score.num_images, score.seed, score, space, score.passes, score.constraint, score.metric
    )


POPULATION_KIND = SamplerKind(
    _make,
    metrics=tuple(INFLUENCES),
    redraw_noise=False,
    num_trials=42,  # twenty updates, and two trials of where they ended
    space=PopulationSpace,
    score=_score,
    check=check_population,
)
