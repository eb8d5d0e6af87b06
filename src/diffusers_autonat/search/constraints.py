"""What a strategy has to keep while its distance is made small: `class_consistency>=0.92`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


# A value that misses its bound by one percent of it counts a quarter more: beyond what a distance gains there.
PENALTY = 25.0


@dataclass(frozen=True)
class Constraint:
    """
    A bound on one of an evaluation's values.

    Args:
        name: Of the value.
        bound: Positive.
        at_least: Whether it is a lower bound.
    """

    name: str
    bound: float
    at_least: bool

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """
        From `NAME>=BOUND` or `NAME<=BOUND`.

        Raises:
            ValueError: it is neither, or the bound is not positive.
        """
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*", text)
        try:
            bound = float(match[3]) if match else 0.0
        except ValueError:
            bound = 0.0
        if match is None or not 0 < bound < float("inf"):
            raise ValueError(f"{text!r} is no constraint: write NAME>=BOUND or NAME<=BOUND, with a positive bound")
        return cls(match[1], bound, match[2] == ">=")

    def violation(self, values: Mapping[str, float]) -> float:
        """
        By which share of the bound values miss it; 0 where they keep it.

        Raises:
            ValueError: there is no such value.
        """
        if self.name not in values:
            raise ValueError(f"the constraint is on {self.name}; the evaluation has {', '.join(values)}")
        missed = self.bound - values[self.name] if self.at_least else values[self.name] - self.bound
        return max(0.0, missed / self.bound)

    def penalised(self, distance: float, values: Mapping[str, float]) -> float:
        """A distance, the larger the more the bound is missed: what a search makes small."""
        return distance * (1 + PENALTY * self.violation(values))

    def penalised_name(self, name: str) -> str:
        """What such a distance is called where it is drawn."""
        return f"{name}, more where {self} is missed"

    def __str__(self) -> str:
        return f"{self.name}{'>=' if self.at_least else '<='}{self.bound:g}"
