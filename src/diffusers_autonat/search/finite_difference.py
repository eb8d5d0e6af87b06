"""Gradient descent on finite differences (AutoNAT, section 4.2) as an Optuna sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from .interface import Point, SamplerKind
from .objective import EvaluatorScore, Score
from .replay import ReplayingEvaluator
from .rounds import Rounds, RoundSampler
from .spaces import DescentParameter
from .strategy_spaces import OneLengthSpace
from .workers import centre_of


LINE_SEARCH = (0.5, 1.0, 2.0, 4.0)  # multiples of the last distance
FIRST_DISTANCE, SHORTEST_DISTANCE = 4.0, 0.5  # in steps: about one in each of a dozen parameters


class FiniteDifferenceSampler(RoundSampler):
    """The paper's gradient descent on finite differences of the objective F.

    Update k evaluates the point x and, for every parameter i, x + e_i step_i, all in parallel, and moves by stochastic
    gradient descent with momentum:

        g_i = (F(x + e_i step_i) - F(x)) / step_i,    v = momentum v + g,    x = clamp(x - learning_rate v)

    `central=True` also evaluates x - e_i step_i and takes g_i between the two outer points: twice the evaluations, an
    error of second instead of first order in the step. At a bound the step goes to the other side, and a point without
    a value (failed twice, pruned, infinite) is left out: g_i is then the slope between the points that remain, and 0 if
    only one does. For a study that maximises, F is negated.

    The released settings are those of `generation_space` with the defaults here. The end of the last update is
    evaluated as well, so a search over n parameters takes `num_updates * (n + 1) + 1` trials.

    With `line_search` learning rates play no part. Slopes are taken per step rather than per unit, so that parameters
    of different scales count alike; v, divided by its length, gives the direction; and points at several distances
    along it are evaluated, in parallel. The search moves to the best of them and tries longer or shorter distances
    next. If none is better than x it stays, forgets v and shortens its steps: with the noise of all trials shared,
    the same steps would tell it the same again. So an update follows a few noisy slopes as far as they hold, where a
    rate that is safe everywhere would need many.

    Example:

        >>> space = generation_space(generation_start(4))
        >>> study = optuna.create_study(sampler=FiniteDifferenceSampler(space))
        >>> study.optimize(lambda trial: score(suggest(trial, space)))

    Args:
        space: Parameters with their start, bounds, steps and learning rates.
        central: Central instead of one-sided differences.
        momentum: Share of the last move's velocity that is kept.
        max_gradient: Bound on the absolute slope of each parameter; `None` leaves slopes as they are.
        line_search: Distances to try, as multiples of the present one (`LINE_SEARCH` is a good choice); none by default.
        num_updates: Length of the search; it may be raised to prolong a study.
        stale_after, independent_sampler: See `RoundSampler`, also for what cannot be asked of any search in rounds.
    """

    _space: Mapping[str, DescentParameter]

    def __init__(
        self,
        space: Mapping[str, DescentParameter],
        central: bool = False,
        momentum: float = 0.5,
        max_gradient: float | None = None,
        line_search: Sequence[float] = (),
        num_updates: int = 100,
        stale_after: float | None = None,
        independent_sampler: BaseSampler | None = None,
    ):
        super().__init__(space, stale_after, independent_sampler)
        self._central = central
        self._momentum = momentum
        self._max_gradient = max_gradient
        self._line_search = list(line_search)
        self._num_updates = num_updates

    @property
    def num_trials(self) -> int:
        """Length of the search in trials, where none is lost, fails or is saved by a parameter resting on a bound."""
        return self._num_updates * self.trials_per_update + 1

    @property
    def trials_per_update(self) -> int:
        probes = (2 if self._central else 1) * len(self._space)
        return probes + (len(self._line_search) or 1)

    def _settings(self) -> dict[str, Any]:
        return {
            "central": self._central,
            "momentum": self._momentum,
            "max_gradient": self._max_gradient,
            "line_search": self._line_search,
        }

    def _rounds(self) -> Rounds:
        return self._rounds_with_line_search() if self._line_search else self._rounds_with_learning_rate()

    def _rounds_with_learning_rate(self) -> Rounds:
        point = {name: parameter.start for name, parameter in self._space.items()}
        velocity = dict.fromkeys(self._space, 0.0)
        for _ in range(self._num_updates):
            probes, self._centre = self.probes(point), point
            base_value, *values = yield [point, *({**point, name: value} for name, value in probes)]
            slopes = self._slopes(point, base_value, probes, values)
            moved = {}
            for name, parameter in self._space.items():
                velocity[name] = self._momentum * velocity[name] + slopes[name]
                moved[name] = parameter.clamp(point[name] - parameter.learning_rate * velocity[name])
            point = moved
        self._centre = None
        yield [point]

    def _rounds_with_line_search(self) -> Rounds:
        point = {name: parameter.start for name, parameter in self._space.items()}
        velocity = dict.fromkeys(self._space, 0.0)
        scale, distance = 1.0, FIRST_DISTANCE  # of the steps; of the move, in steps
        [best] = yield [point]
        for _ in range(self._num_updates):
            probes, self._centre = self.probes(point, scale), point
            values = yield [{**point, name: value} for name, value in probes]
            self._centre = None
            slopes = self._slopes(point, best, probes, values)
            changes = {name: slopes[name] * parameter.step for name, parameter in self._space.items()}
            length = math.hypot(*changes.values())
            if length == 0:  # flat as far as these steps reach
                scale *= 2
                continue
            velocity = {name: self._momentum * velocity[name] + changes[name] / length for name in velocity}
            length = math.hypot(*velocity.values())
            line = [
                {
                    name: parameter.clamp(
                        point[name] - multiple * distance * scale * parameter.step * velocity[name] / length
                    )
                    for name, parameter in self._space.items()
                }
                for multiple in self._line_search
            ]
            values = yield line
            winner = min(range(len(line)), key=values.__getitem__)
            if values[winner] < best:
                point, best = line[winner], values[winner]
                distance = max(SHORTEST_DISTANCE, distance * math.sqrt(self._line_search[winner]))
            else:
                velocity = dict.fromkeys(self._space, 0.0)
                scale, distance = 0.7 * scale, max(SHORTEST_DISTANCE, distance / 2)

    def probes(self, point: Point, scale: float = 1.0) -> list[tuple[str, float]]:
        """The values of single parameters, other than their own, at which an update evaluates the objective."""
        probes = []
        for name, parameter in self._space.items():
            value, step = point[name], scale * parameter.step
            if self._central:
                steps = [step, -step]
            else:
                steps = [step if value + step <= parameter.high else -step]
            tried = [parameter.clamp(value + step) for step in steps]
            probes += [(name, probe) for probe in tried if probe != value]
        return probes

    def _slopes(self, point: Point, base: float, probes: list[tuple[str, float]], values: list[float]) -> Point:
        bound = math.inf if self._max_gradient is None else self._max_gradient
        curves = {name: [(point[name], base)] for name in self._space}
        for (name, value), f in zip(probes, values):
            curves[name].append((value, f))
        return {name: min(max(_slope(curve), -bound), bound) for name, curve in curves.items()}


def _slope(curve: list[tuple[float, float]]) -> float:
    """Slope between the outermost of the points (x, F(x)) that have a value."""
    known = sorted((x, f) for x, f in curve if math.isfinite(f))
    if len(known) < 2:
        return 0.0
    return (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0])


def _make(space: Mapping[str, DescentParameter], num_trials: int, **settings: Any) -> FiniteDifferenceSampler:
    """As many whole updates as fit into so many trials."""
    trials_per_update = FiniteDifferenceSampler(space, **settings).trials_per_update
    num_updates = (num_trials - 1) // trials_per_update
    if num_updates < 1:
        raise ValueError(f"{num_trials} trials are not enough for one update, which takes {trials_per_update + 1}")
    return FiniteDifferenceSampler(space, num_updates=num_updates, **settings)


def _sharing(score: EvaluatorScore, space: OneLengthSpace) -> Score:
    """Probes share most with the point that they surround, which another worker may have made, or one that was killed."""
    if not isinstance(score.evaluator, ReplayingEvaluator):
        return score

    def near_centre(strategy: Any, trial: optuna.Trial) -> float:
        centre = centre_of(trial)
        return score(strategy, trial, near=None if centre is None else space.strategy(centre))

    return near_centre


# Neither draws anything, and both begin at the start of the space. A line search compares values of several rounds.
WITH_LINE_SEARCH = SamplerKind(
    lambda space, num_trials, seed, starts: _make(space, num_trials, central=True, line_search=LINE_SEARCH),
    step_scale=3.0,
    redraw_noise=False,
    score=_sharing,
)
RELEASED = SamplerKind(lambda space, num_trials, seed, starts: _make(space, num_trials), curves=False, score=_sharing)
