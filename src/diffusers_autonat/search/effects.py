"""How a reward of images depends on the noise of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


CONSISTENT = 2.0  # standard errors by which slopes of one place may differ


@dataclass(frozen=True)
class Effects:
    """How a reward depends on the noise of P parameters: in units of the noise, each `[P]`, float64.

    Args:
        slopes: First derivatives.
        slope_errors: Their standard errors.
        weight: How many updates they are of, where earlier ones count less; a number, or one for each parameter.
    """

    slopes: Tensor
    slope_errors: Tensor
    weight: float | Tensor = 1.0

    @classmethod
    def of_pairs(cls, noise: Tensor, rewards: Tensor) -> Effects:
        """
        Regress on noise in antithetic pairs, whose difference holds no constant, class or even power of it.

        Args:
            noise: Of the first image of each pair `[n, P]`; the second has its negative.
            rewards: Of both `[n, 2]`.
        """
        noise, difference = noise.double(), (rewards[:, 0] - rewards[:, 1]).double() / 2
        inverse = torch.linalg.pinv(noise.T @ noise, hermitian=True)
        slopes = inverse @ (noise.T @ difference)
        variance = (difference - noise @ slopes).square().sum() / max(len(noise) - noise.shape[1], 1)
        return cls(slopes, (variance * inverse.diagonal()).clamp(min=0).sqrt())

    @classmethod
    def mean_of(cls, effects: Sequence[Effects]) -> Effects:
        """Of batches of equal size."""
        slopes = torch.stack([one.slopes for one in effects])
        errors = torch.stack([one.slope_errors for one in effects])
        return cls(slopes.mean(0), errors.square().mean(0).div(len(effects)).sqrt())

    def scaled(self, factor: float) -> Effects:
        """In another unit of the parameters."""
        return Effects(factor * self.slopes, factor * self.slope_errors, self.weight)

    def remembered(self, now: Effects, memory: float) -> Effects:
        """
        The average of `now` and of this, whose weight is `memory` times what it was; where both differ by more than their
        errors, the centre has come to another place and only `now` counts.
        """
        apart = (now.slopes - self.slopes).abs() > CONSISTENT * torch.hypot(now.slope_errors, self.slope_errors)
        old = torch.where(apart, 0.0, memory * torch.as_tensor(self.weight, dtype=now.slopes.dtype))
        total = now.weight + old
        slopes = (now.weight * now.slopes + old * self.slopes) / total
        errors = torch.hypot(now.weight * now.slope_errors, old * self.slope_errors) / total
        return Effects(slopes, errors, total)

    @property
    def certainty(self) -> Tensor:
        """Slopes in units of their errors `[P]`; 0 where nothing is known."""
        return (self.slopes / self.slope_errors).nan_to_num(0.0, 0.0, 0.0)

    def to_json(self) -> dict[str, list[float]]:
        return {"slopes": self.slopes.tolist(), "slope_errors": self.slope_errors.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> Effects:
        return cls(**{name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
