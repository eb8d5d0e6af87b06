"""Strategies as plain data: what AutoNAT (arXiv:2406.05478, CVPR 2024) searches for.

A `GenerationStrategy` says what a masked-token sampler does at each of its T steps; a `TrainingStrategy` says how much
of an image is masked in training. Paper symbols: r mask_ratios, tau1 sampling_temperatures, tau2
remasking_temperatures, s guidance_scales, p(r) the training strategy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from reprlib import repr as shortened

import torch

from .files import write_json


# r, tau1, tau2 and s over all steps; of one step they lose the plural's s.
SCHEDULES = ("mask_ratios", "sampling_temperatures", "remasking_temperatures", "guidance_scales")

MAX_STEPS = 10_000  # more than a grid has tokens: every step reveals one at least


@dataclass(frozen=True)
class StepParameters:
    """r, tau1, tau2 and s of one step: what guidance and `NATScheduler.step` need to know of it.

    Args:
        mask_ratio, sampling_temperature, remasking_temperature, guidance_scale: numbers, or tensors `[B]` with one for
            each image.
        is_last: nothing is masked again, whatever `mask_ratio` says.
    """

    mask_ratio: float | torch.Tensor
    sampling_temperature: float | torch.Tensor
    remasking_temperature: float | torch.Tensor
    guidance_scale: float | torch.Tensor
    is_last: bool = False

    @property
    def is_guided(self) -> bool:
        """Whether some image may need the unconditional pass: known without asking the device."""
        return isinstance(self.guidance_scale, torch.Tensor) or self.guidance_scale > 0

    @classmethod
    def join(cls, steps: Sequence[StepParameters], device: torch.device | str | None = None) -> StepParameters:
        """The same step of several images as one: numbers where all agree, tensors `[B]` where they do not."""

        def joined(name: str) -> float | torch.Tensor:
            values = [getattr(step, name) for step in steps]
            return values[0] if len(set(values)) == 1 else torch.tensor(values, device=device)

        r, tau1, tau2, s = (joined(schedule.removesuffix("s")) for schedule in SCHEDULES)
        return cls(r, tau1, tau2, s, steps[0].is_last)


@dataclass(frozen=True)
class GenerationStrategy:
    """What happens at each step t = 1..T; four tuples of T floats.

    Args:
        mask_ratios: r(t), share of all tokens that is masked again after the step; in [0, 1], the last is 0.
        sampling_temperatures: tau1(t) >= 0 of the token draw; 0 takes the most likely token.
        remasking_temperatures: tau2(t) >= 0 of the Gumbel noise on the confidence; 0 keeps the most confident tokens.
        guidance_scales: s(t) >= 0 in `cond + s * (cond - uncond)`; 0 is no guidance and costs no unconditional pass.

    Raises:
        ValueError: names the field and the offending value.
    """

    mask_ratios: Sequence[float]
    sampling_temperatures: Sequence[float]
    remasking_temperatures: Sequence[float]
    guidance_scales: Sequence[float]

    def __post_init__(self):
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
                raise ValueError(f"{field.name} must be a list of floats, one per step, got {values!r}.")
            # float() makes NumPy and torch scalars serialisable, and a tuple cannot be changed behind a config's back.
            try:
                object.__setattr__(self, field.name, tuple(float(value) for value in values))
            except (TypeError, ValueError):
                raise ValueError(f"{field.name} must be a list of floats, one per step, got {values!r}.") from None
        steps = len(self.mask_ratios)
        if steps < 1:
            raise ValueError("a strategy needs at least one step, mask_ratios is empty.")
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != steps:
                raise ValueError(f"{field.name} has {len(values)} values but mask_ratios has {steps}: one per step.")
            for t, value in enumerate(values):
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"{field.name}[{t}] = {value} must be finite and not negative.")
        for t, ratio in enumerate(self.mask_ratios):
            if ratio > 1:
                raise ValueError(f"mask_ratios[{t}] = {ratio} must be in [0, 1].")
        if self.mask_ratios[-1] != 0:
            raise ValueError(
                f"mask_ratios[{steps - 1}] = {self.mask_ratios[-1]}: the last must be 0, nothing stays masked."
            )

    @property
    def num_inference_steps(self) -> int:
        return len(self.mask_ratios)

    def steps(self) -> tuple[StepParameters, ...]:
        """The parameters of each step."""
        schedules = zip(
            self.mask_ratios, self.sampling_temperatures, self.remasking_temperatures, self.guidance_scales
        )
        last = self.num_inference_steps - 1
        return tuple(StepParameters(r, tau1, tau2, s, t == last) for t, (r, tau1, tau2, s) in enumerate(schedules))

    @classmethod
    def cosine(
        cls,
        num_inference_steps: int,
        sampling_temperature: float = 1.0,
        remasking_temperature: float = 4.5,
        guidance_scale: float = 3.0,
    ) -> GenerationStrategy:
        """The hand-made schedule of MaskGIT and Muse, AutoNAT's baseline.

        r = cos(pi t / 2T), tau1 constant, tau2 = lambda (T - t + 1) / T with lambda the `remasking_temperature`, and
        s = k t / T with k the `guidance_scale`.
        """
        T = whole_steps(num_inference_steps)
        return cls(
            mask_ratios=_cosine_ratios(T),
            sampling_temperatures=[sampling_temperature] * T,
            remasking_temperatures=[remasking_temperature * (T - t + 1) / T for t in range(1, T + 1)],
            guidance_scales=[guidance_scale * t / T for t in range(1, T + 1)],
        )

    @classmethod
    def enat(
        cls,
        num_inference_steps: int,
        sampling_temperature: float = 6.0,
        remasking_temperature: float = 1.5,
        guidance_scale: float = 2.5,
    ) -> GenerationStrategy:
        """The hand-made schedule of ENAT (arXiv:2411.06959); the defaults are those of its 256-pixel model.

        r = cos(pi t / 2T), both temperatures fall linearly to 0 at the last step (tau1 no lower than 0.001), and
        s = `guidance_scale` (t - 1) / T.
        """
        T = whole_steps(num_inference_steps)
        return cls(
            mask_ratios=_cosine_ratios(T),
            sampling_temperatures=[max(sampling_temperature * (1 - t / T), 1e-3) for t in range(1, T + 1)],
            remasking_temperatures=[remasking_temperature * (1 - t / T) for t in range(1, T + 1)],
            guidance_scales=[guidance_scale * (t - 1) / T for t in range(1, T + 1)],
        )

    @classmethod
    def from_yaml(cls, path: str | Path) -> GenerationStrategy:
        """Read one of the authors' strategy files (`AutoNAT_L-T8_strategy.yaml`).

        Its r and tau2 have T - 1 values, the last step's being 0. Their search kept values above 0.0001; one that
        ended there means "off" and becomes 0.
        """
        import yaml

        try:
            data = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
        keys = ("manual_ratios", "manual_samp_temp", "manual_temp", "manual_cfg")
        missing = [key for key in keys if not isinstance(data, Mapping) or key not in data]
        if missing:
            raise ValueError(f"{path} is not a strategy file of the AutoNAT authors: it has no {', '.join(missing)}.")
        try:
            r, tau1, tau2, s = ([0.0 if float(value) <= 1e-4 else float(value) for value in data[key]] for key in keys)
            return cls([*r, 0.0], tau1, [*tau2, 0.0], s)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> GenerationStrategy:
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            found = sorted(values) if isinstance(values, Mapping) else repr(values)
            raise ValueError(f"a strategy has the keys {sorted(names)}, got {found}.")
        return cls(**values)

    def to_dict(self) -> dict[str, list[float]]:
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_json(cls, path: str | Path) -> GenerationStrategy:
        return cls.from_dict(json.loads(Path(path).read_text()))

    def to_json(self, path: str | Path) -> None:
        write_json(path, self.to_dict())


def by_steps(strategies: Sequence[GenerationStrategy]) -> dict[int, GenerationStrategy]:
    """Strategies by their number of steps; a ValueError where two have the same."""
    steps = [strategy.num_inference_steps for strategy in strategies]
    if len(set(steps)) < len(steps):
        raise ValueError(f"strategies hold more than one strategy for one number of steps: {sorted(steps)}.")
    return dict(zip(steps, strategies))


@dataclass(frozen=True)
class TrainingStrategy:
    """Distribution p(r) of the share of tokens that is masked in training.

    `TrainingStrategy(12, 3)` is Beta(12, 3), what AutoNAT's search found; `arccos()` is the heuristic of MaskGIT,
    2 / (pi sqrt(1 - r^2)); `fixed(r)` masks the same share always, as masked autoencoders do.
    """

    alpha: float | None = None
    beta: float | None = None
    distribution: str = "beta"
    ratio: float | None = None

    def __post_init__(self):
        if self.distribution == "beta":
            for name in ("alpha", "beta"):
                value = getattr(self, name)
                if value is None or not (math.isfinite(value) and value > 0):
                    raise ValueError(f"{name} = {value} must be positive and finite.")
        elif self.distribution == "fixed":
            if self.ratio is None or not 0 < self.ratio <= 1:
                raise ValueError(f"ratio = {self.ratio} must be in (0, 1].")
        elif self.distribution != "arccos":
            raise ValueError(f"distribution = {self.distribution!r} must be 'beta', 'arccos' or 'fixed'.")

    @classmethod
    def arccos(cls) -> TrainingStrategy:
        return cls(distribution="arccos")

    @classmethod
    def fixed(cls, ratio: float) -> TrainingStrategy:
        return cls(distribution="fixed", ratio=ratio)

    def sample(self, size: int, device: torch.device | str | None = None) -> torch.Tensor:
        """Draw `[size]` mask ratios in [0, 1] from torch's global generator."""
        if self.distribution == "beta":
            return torch.distributions.Beta(self.alpha, self.beta).sample((size,)).to(device)
        if self.distribution == "arccos":
            return torch.cos(torch.rand(size, device=device) * (math.pi / 2))
        return torch.full((size,), self.ratio, device=device)

    def to_dict(self) -> dict[str, float | str]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def whole_steps(num_inference_steps: int) -> int:
    """A number of steps as an int; a ValueError if it is none."""
    if isinstance(num_inference_steps, bool) or num_inference_steps not in range(1, MAX_STEPS + 1):
        raise ValueError(
            f"num_inference_steps = {shortened(num_inference_steps)} must be a whole number from 1 to {MAX_STEPS:,}."
        )
    return int(num_inference_steps)


def _cosine_ratios(T: int) -> list[float]:
    # cos(pi / 2) is 6e-17 in floating point, and the last ratio must be 0.
    return [math.cos(math.pi * t / (2 * T)) for t in range(1, T)] + [0.0]
