"""What a strategy gains over others that were confirmed with it, in units of the noise, and whether a second extractor sees it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .confirm import Scored
from .constraints import Constraint


@dataclass(frozen=True)
class Gain:
    """By how much one strategy's distance is below another's.

    Args:
        over: Label of the other.
        value: The difference.
        noise: Its standard error, as if both had noise of their own; None where it was not measured.
        second_value, second_noise: The same by the second extractor; None where none was asked.
    """

    over: str
    value: float
    noise: float | None = None
    second_value: float | None = None
    second_noise: float | None = None

    @property
    def is_unseen(self) -> bool:
        """Whether there is a gain of which the second extractor sees no more than its noise."""
        return self.value > 0 and self.second_value is not None and self.second_value <= (self.second_noise or 0.0)

    def __str__(self) -> str:
        return _in_noise(self.value, self.noise)

    @property
    def second(self) -> str:
        return _in_noise(self.second_value, self.second_noise)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        found: dict[str, Any] = {"over": self.over, "gain": self.value, "noise": self.noise}
        if self.second_value is not None:
            found |= {"second_gain": self.second_value, "second_noise": self.second_noise, "unseen": self.is_unseen}
        return found


def gains_of(
    found: Scored[Any], others: Iterable[Scored[Any]], name: str, second_name: str | None = None
) -> list[Gain]:
    """What a strategy gains over others.

    Args:
        found: One that was scored with them.
        name: Of the distance among the recorded values; `second_name` that of the second extractor.
    """
    gains = []
    for other in others:
        if other is found:
            continue
        noise = _noise(found.record["values"], other.record["values"], name)
        gain = Gain(other.label, distance_of(other, name) - distance_of(found, name), noise)
        mine, theirs = (one.record["values"].get(second_name) for one in (found, other))
        if second_name is not None and mine is not None and theirs is not None:
            noise = _noise(found.record["values"], other.record["values"], second_name)
            gain = Gain(gain.over, gain.value, gain.noise, theirs - mine, noise)
        gains.append(gain)
    return gains


def unseen(gains: Iterable[Gain]) -> str | None:
    """In one line, which gains the second extractor does not see; None where it sees all."""
    lost = [
        f"the gain over {gain.over} ({gain}) is not seen by the second extractor ({gain.second})"
        for gain in gains
        if gain.is_unseen
    ]
    return "; ".join(lost) + ": it may please the first alone" if lost else None


def comparison(
    same: Sequence[Scored[Any]], name: str, second_name: str | None = None, constraint: Constraint | None = None
) -> tuple[list[str], list[Any]]:
    """
    Head and rows of a table of strategies that were confirmed together, best first: distance, its error, recognition,
    and what the best gains over each; the same by the second extractor; whether a constraint is kept.
    """
    gains = {gain.over: gain for gain in gains_of(same[0], same, name, second_name)}
    head, rows = ["strategy", name, "error", "recognised", "the first gains"], []
    if second_name is not None:
        head += [second_name, "error", "the first gains there"]
    if constraint is not None:
        head.append(str(constraint))
    for one in same:
        values, gain = one.record["values"], gains.get(one.label)
        recognised = values.get("class_consistency")
        row = [
            one.label.replace("trial", "found, trial"), f"{distance_of(one, name):.4f}", _number(error_of(values, name)),
            "-" if recognised is None else f"{recognised:.1%}", "-" if gain is None else str(gain),
        ]  # fmt: skip
        if second_name is not None:
            second = [_number(values.get(second_name)), _number(error_of(values, second_name))]
            row += [*second, "-" if gain is None else gain.second]
        if constraint is not None:
            row.append(f"{values[constraint.name]:.4f}{', missed' if constraint.violation(values) else ''}")
        rows.append(row)
    return head, rows


def distance_of(one: Scored[Any], name: str) -> float:
    """What was measured: a candidate's value is more where it misses a constraint."""
    return one.record["values"][name]


def missed_by(constraint: Constraint | None, one: Scored[Any]) -> str | None:
    """In words, by how much it misses a constraint; None where it keeps it."""
    values = one.record["values"]
    if constraint is None or not constraint.violation(values):
        return None
    return f"misses {constraint}: {constraint.name} is {values[constraint.name]:.4f}"


def error_of(values: Mapping[str, float], name: str) -> float | None:
    """The standard error among recorded values; None where none was measured, as in trials that earlier code confirmed."""
    return values.get(f"{name}_error")


def _noise(mine: Mapping[str, float], theirs: Mapping[str, float], name: str) -> float | None:
    known = [error for values in (mine, theirs) if (error := error_of(values, name)) is not None]
    return math.hypot(*known) if len(known) == 2 else None


def _in_noise(value: float | None, noise: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / noise:.1f} times the noise" if noise else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
