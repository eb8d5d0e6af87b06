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

    Raises:
        ValueError: it holds strategies of another order, or what is no scheduler or provenance.
    """

    def __init__(self, path: str | Path, label: str, scheduler: MaskedTokenScheduler):
        self.path, self.label, self._pipelines = Path(path), label, scheduler
        self.strategies: Mapping[int, Strategy] = self._scheduler().stored_strategies
        self._said = read_provenance(path)

    def candidates(self, steps: list[int]) -> dict[str, Strategy]:
        """Its strategies of so many steps, by the labels that they are measured under."""
        return {f"{self.label}, T = {one}": self.strategies[one] for one in steps if one in self.strategies}

    def has_candidate(self, one: Scored[GenerationStrategy]) -> bool:
        """Whether a candidate is one of its own."""
        return one.label.startswith(f"{self.label}, ")

    def said_of(self, strategy: Strategy, origin: Mapping[str, Any]) -> dict[str, Any]:
        """What its `search.json` says of its strategy of as many steps, if that was found for the weights of `origin`."""
        known = self._said.get(str(strategy.num_inference_steps), {})
        return known if known.get("pipeline") == origin["pipeline"] else {}

    def confirmed_by_other(self, steps: list[int], study: str) -> tuple[int, str] | None:
        """The first number of steps for which it has a confirmed strategy of another study, and that study's name."""
        for one in steps:
            known = self._said.get(str(one), {})
            if known.get("confirmed") and known.get("study") != study:
                return one, known.get("study")
        return None

    def keeps(self, best: Scored[GenerationStrategy], origin: Mapping[str, Any]) -> bool:
        """Whether it has the best already, and not from this search: then it stays as it is, and so does what it says of it."""
        if best.label.startswith("trial") or self.strategies.get(best.strategy.num_inference_steps) != best.strategy:
            return False
        if self.label == STORED:
            return True
        known = self.said_of(best.strategy, origin)
        return bool(known) and (self.has_candidate(best) or known.get("study") != origin["study"])

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
