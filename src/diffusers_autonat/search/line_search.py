"""The greedy line search over the training strategy (AutoNAT, section 4.3) as an Optuna sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .interface import Point
from .rounds import Rounds, RoundSampler
from .spaces import GridParameter


Node = tuple[int, ...]  # a point of the grid: the index of each parameter's value


class GreedyLineSearchSampler(RoundSampler):
    """The paper's search over Beta(alpha, beta): one parameter at a time along its grid, until nothing improves.

    From the best point so far, both neighbours along one parameter are evaluated, in parallel; the search moves to the
    better one and on in that direction while this improves the objective, then takes the next parameter. It ends when
    no parameter moves: the best point is then better than, or as good as, all its neighbours. No point of the grid is
    evaluated twice. A point without a value (failed twice, pruned) is never better.

    Example:

        >>> space = training_space(TrainingStrategy(1, 1))
        >>> study = optuna.create_study(sampler=GreedyLineSearchSampler(space))
        >>> study.optimize(lambda trial: train_and_score(suggest(trial, space)))

    Args:
        space: Parameters with their start and grid, in the order in which they are searched.
        stale_after, independent_sampler: See `RoundSampler`, also for what cannot be asked of any search in rounds.
    """

    _space: Mapping[str, GridParameter]

    def _settings(self) -> dict[str, Any]:
        return {}

    def _rounds(self) -> Rounds:
        best: Node = tuple(parameter.values.index(parameter.start) for parameter in self._space.values())
        known: dict[Node, float] = {}
        before = None
        while best != before:
            before = best
            for axis in range(len(self._space)):
                while True:
                    candidates = [best, *self._neighbours(best, axis)]
                    fresh = [node for node in candidates if node not in known]
                    if fresh:
                        values = yield [self._point(node) for node in fresh]
                        known.update(zip(fresh, values))
                    winner = min(candidates, key=known.__getitem__)  # the best so far wins a draw
                    if winner == best:
                        break
                    best = winner

    def _neighbours(self, node: Node, axis: int) -> list[Node]:
        values = list(self._space.values())[axis].values
        indices = (node[axis] - 1, node[axis] + 1)
        return [(*node[:axis], index, *node[axis + 1 :]) for index in indices if 0 <= index < len(values)]

    def _point(self, node: Node) -> Point:
        return {name: self._space[name].values[index] for name, index in zip(self._space, node)}
