"""A folder that a search may store its strategies in, with what it had before: a better one stays, with what was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..schedulers.masked_token_scheduler import MaskedTokenScheduler
from ..strategies import GenerationStrategy, Strategy
from .confirm import Scored
from .report import load_scheduler, read_provenance, save_strategy


STORED = "stored"  # what the pipeline has
EARLIER = "earlier"  # what an earlier search has left in the folder of results


class StrategyFolder:
    """A scheduler's config and `search.json`, as they were before the search.

    Args:
        path: Of the folder; it need not exist.
        label: `STORED` or `EARLIER`: what its strategies are called among the candidates.
        scheduler: Of the pipeline that is searched, whose strategies are those of a folder that holds none.
        weights: Hash of that pipeline.

    Raises:
        ValueError: it holds strategies of another order, or what is no scheduler or provenance; or an earlier search has left
            strategies of other weights there.
    """

    def __init__(self, path: str | Path, label: str, scheduler: MaskedTokenScheduler, weights: str):
        self.path, self.label, self._pipelines, self._weights = Path(path), label, scheduler, weights
        self.strategies: Mapping[int, Strategy] = self._scheduler().stored_strategies
        self._said = read_provenance(path)
        if label == EARLIER and any(known.get("pipeline", weights) != weights for known in self._said.values()):
            raise ValueError(f"{path} holds strategies that were found for another pipeline: name another folder")

    def candidates(self, steps: list[int]) -> dict[str, Strategy]:
        """Its strategies of so many steps, by the labels that they are measured under."""
        return {f"{self.label}, T = {one}": self.strategies[one] for one in steps if one in self.strategies}

    def has_candidate(self, one: Scored[GenerationStrategy]) -> bool:
        """Whether a candidate is one of its own."""
        return one.label.startswith(f"{self.label}, ")

    def said_of(self, strategy: Strategy) -> dict[str, Any]:
        """What its `search.json` says of its strategy of as many steps, if that was found for the pipeline's weights."""
        known = self._said.get(str(strategy.num_inference_steps), {})
        return known if known.get("pipeline") == self._weights else {}

    def confirmed(self, steps: list[int]) -> int | None:
        """The first number of steps for which it has a confirmed strategy."""
        return next((one for one in steps if self._said.get(str(one), {}).get("confirmed")), None)

    def keeps(self, best: Scored[GenerationStrategy], origin: Mapping[str, Any]) -> bool:
        """
        Whether it has the best already, and not from this search: then it stays as it is, and so does what it says of it.

        Args:
            origin: What this search would say.
        """
        if best.label.startswith("trial") or self.strategies.get(best.strategy.num_inference_steps) != best.strategy:
            return False
        if self.label == STORED:
            return True
        known = self.said_of(best.strategy)
        own = all(known.get(key) == origin[key] for key in ("study", "search"))
        return bool(known) and (self.has_candidate(best) or not own)

    def store(self, strategy: Strategy, provenance: Mapping[str, Any]) -> None:
        """Write a strategy and where it comes from beside those of other numbers of steps, other workers' too."""
        save_strategy(self.path, self._scheduler(), strategy, provenance)

    def _scheduler(self) -> MaskedTokenScheduler:
        held = load_scheduler(self.path) or self._pipelines
        if type(held) is not type(self._pipelines):
            found, searched = type(held).__name__, type(self._pipelines).__name__
            raise ValueError(
                f"{self.path} holds strategies of {found}, those of {searched} are searched: name another folder"
            )
        return held
