"""Strategies as plain data: what AutoNAT (arXiv:2406.05478, CVPR 2024) searches for.

A `GenerationStrategy` says what a masked-token sampler does at each of its T steps; a `TrainingStrategy` says how much
of an image is masked in training. Paper symbols: r mask_ratios, tau1 sampling_temperatures, tau2
remasking_temperatures, s guidance_scales, p(r) the training strategy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeGuard, TypeVar

import numpy as np
import torch

from .files import write_json
from .messages import shown


FLOAT32 = torch.finfo(torch.float32)  # what steps compute in

# Schedules whose value at the last step has no effect: nothing is masked again there.
WITHOUT_EFFECT_LAST = ("remasking_temperatures", "remasking_rates", "entropy_bounds")

MAX_STEPS = 10_000  # more than a grid has tokens: every step reveals one at least


StepT = TypeVar("StepT", bound="Step")
StrategyT = TypeVar("StrategyT", bound="Strategy")


class Step:
    """Base of the parameters of one step: frozen dataclasses of numbers, or of tensors `[B]` with one for each image.

    Every order has s, `guidance_scale`, and `is_last`: nothing is masked again.
    """

    guidance_scale: float | torch.Tensor
    is_last: bool

    @property
    def is_guided(self) -> bool:
        """Whether some image may need the unconditional pass: known without asking the device."""
        return isinstance(self.guidance_scale, torch.Tensor) or self.guidance_scale > 0

    @classmethod
    def join(cls: type[StepT], steps: Sequence[StepT], device: torch.device | str | None = None) -> StepT:
        """The same step of several images as one: numbers where all agree, tensors `[B]` where they do not."""
        joined = {}
        for field in fields(steps[0]):  # type: ignore[arg-type]
            values = [getattr(step, field.name) for step in steps]
            joined[field.name] = values[0] if len(set(values)) == 1 else torch.tensor(values, device=device)
        return replace(steps[0], **joined)  # type: ignore[type-var]


@dataclass(frozen=True)
class StepParameters(Step):
    """r, tau1, tau2 and s of one step: what guidance and `NATScheduler.step` need to know of it.

    Args:
        mask_ratio, sampling_temperature, remasking_temperature, guidance_scale: numbers, or tensors `[B]` with one for
            each image.
        is_last: nothing is masked again, whatever `mask_ratio` says.
        is_bounded: until the last step, every step reveals a token and leaves one masked. Off, r is taken as it is: a
            policy may wait, or end early.
    """

    mask_ratio: float | torch.Tensor
    sampling_temperature: float | torch.Tensor
    remasking_temperature: float | torch.Tensor
    guidance_scale: float | torch.Tensor
    is_last: bool = False
    is_bounded: bool = True


class Strategy:
    """Base of strategies: frozen dataclasses whose fields are schedules of T floats each, one for each step.

    The values are finite in float32 and not negative; shares (`mask_ratios`) lie in [0, 1] and end with 0. An order whose
    steps have other parameters than [`GenerationStrategy`] names has a subclass, and its `step_class`.

    Raises:
        ValueError: names the field and the offending value.
    """

    step_class: ClassVar[type] = StepParameters

    def __post_init__(self):
        for field in fields(self):
            # A tuple cannot be changed behind a config's back.
            object.__setattr__(self, field.name, _schedule(field.name, getattr(self, field.name)))
        first = fields(self)[0].name
        steps = self.num_inference_steps
        if steps < 1:
            raise ValueError(f"a strategy needs at least one step, {first} is empty.")
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != steps:
                raise ValueError(f"{field.name} has {len(values)} values but {first} has {steps}: one per step.")
        ratios = getattr(self, "mask_ratios", (0.0,))
        for t, ratio in enumerate(ratios):
            if ratio > 1:
                raise ValueError(f"mask_ratios[{t}] = {ratio} must be in [0, 1].")
        if ratios[-1] != 0:
            raise ValueError(f"mask_ratios[{steps - 1}] = {ratios[-1]}: the last must be 0, nothing stays masked.")

    @property
    def num_inference_steps(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def steps(self) -> tuple[Any, ...]:
        """The parameters of each step."""
        values = zip(*self.to_dict().values())
        last = self.num_inference_steps - 1
        return tuple(self.step_class(*of_step, is_last=t == last) for t, of_step in enumerate(values))

    def acts_as(self, other: Strategy) -> bool:
        """Whether another does the same in every step, to rounding."""
        mine, its = self.to_dict(), other.to_dict()
        if mine.keys() != its.keys() or self.num_inference_steps != other.num_inference_steps:
            return False
        effective = {name: slice(-1 if name in WITHOUT_EFFECT_LAST else None) for name in mine}
        return all(np.allclose(mine[name][part], its[name][part], atol=1e-6) for name, part in effective.items())

    @classmethod
    def from_dict(cls: type[StrategyT], values: Mapping[str, Sequence[float]]) -> StrategyT:
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, Mapping) or set(values) != names:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise ValueError(f"a strategy has the keys {sorted(names)}, got {shown(found)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, list[float]]:
        return {name: list(values) for name, values in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: type[StrategyT], path: str | Path) -> StrategyT:
        """Read what `to_json` has written; a ValueError that names the file where it holds something else."""
        data = read_json(path)
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_json(self, path: str | Path) -> None:
        write_json(path, self.to_dict())


@dataclass(frozen=True)
class GenerationStrategy(Strategy):
    """What happens at each step t = 1..T; four tuples of T floats that are finite in float32.

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
        remasking_temperature = _number("remasking_temperature", remasking_temperature)
        guidance_scale = _number("guidance_scale", guidance_scale)
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
        sampling_temperature = _number("sampling_temperature", sampling_temperature)
        remasking_temperature = _number("remasking_temperature", remasking_temperature)
        guidance_scale = _number("guidance_scale", guidance_scale)
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

        Raises:
            ValueError: The file is something else, or a value is wrong; names the file, its field and the value.
            OSError: It cannot be read.
        """
        import yaml

        text = Path(path).read_bytes()
        try:
            data = yaml.safe_load(text)
        except Exception as error:  # PyYAML lets errors of its own constructors through: KeyError, RecursionError, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} is not YAML: {reason}.") from None
        keys = ("manual_ratios", "manual_samp_temp", "manual_temp", "manual_cfg")
        missing = [key for key in keys if not isinstance(data, Mapping) or key not in data]
        if missing:
            raise ValueError(f"{path} is not a strategy file of the AutoNAT authors: it has no {', '.join(missing)}.")
        try:
            schedules = [_schedule(key, data[key]) for key in keys]
            r, tau1, tau2, s = ([0.0 if value <= 1e-4 else value for value in values] for values in schedules)
            return cls([*r, 0.0], tau1, [*tau2, 0.0], s)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def by_steps(strategies: Sequence[StrategyT]) -> dict[int, StrategyT]:
    """Strategies by their number of steps; a ValueError where two have the same."""
    steps = [strategy.num_inference_steps for strategy in strategies]
    if len(set(steps)) < len(steps):
        raise ValueError(f"strategies hold more than one strategy for one number of steps: {sorted(steps)}.")
    return dict(zip(steps, strategies))


def as_strategies(given: Any) -> list[Any]:
    """What is passed as `strategy`, one or several, as a list; a ValueError for anything else, with the remedy."""
    strategies = [given] if isinstance(given, Strategy) else given
    if not isinstance(strategies, (list, tuple)) or not strategies:
        remedy = "pass one, or a list"
        if isinstance(given, Mapping):
            remedy = "make one of it with GenerationStrategy.from_dict(...)"
        elif isinstance(given, (str, Path)):
            remedy = "read the file with diffusers_autonat.strategy_files.read_strategy(...)"
        raise ValueError(f"strategy = {shown(given)} is no GenerationStrategy: {remedy}.")
    for index, one in enumerate(strategies):
        if not isinstance(one, Strategy):
            raise ValueError(f"strategy[{index}] = {shown(one)} is no GenerationStrategy: pass a list of those.")
    return list(strategies)


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
        used = {"beta": ("alpha", "beta"), "fixed": ("ratio",), "arccos": ()}
        if not isinstance(self.distribution, str) or self.distribution not in used:
            raise ValueError(f"distribution = {shown(self.distribution)} must be 'beta', 'arccos' or 'fixed'.")
        for name in ("alpha", "beta", "ratio"):
            value = getattr(self, name)
            if name not in used[self.distribution]:
                if value is not None:
                    raise ValueError(f"{name} = {shown(value)} is none of {self.distribution!r}: leave it out.")
                continue
            number = _number(name, value)
            if name == "ratio" and not 0 < number <= 1:
                raise ValueError(f"ratio = {value} must be in (0, 1].")
            if number < FLOAT32.tiny:
                raise ValueError(f"{name} = {value} must be positive and finite.")

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


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; a ValueError that names the file where it is something else."""
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be a strategy or a config.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """A sequence, but neither a text nor bytes, which are sequences too."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _schedule(name: str, values: Any) -> tuple[float, ...]:
    """The values of all steps as floats; a ValueError that names field, step and value."""
    items = values.tolist() if isinstance(values, (np.ndarray, torch.Tensor)) else values
    if not is_list(items):
        raise ValueError(f"{name} must be a list of floats, one per step, got {shown(values)}.")
    return tuple(_number(f"{name}[{t}]", value) for t, value in enumerate(items))


def _number(name: str, value: Any) -> float:
    """A number that is not negative and finite in float32, as JSON knows it: also of NumPy's and torch's scalars."""
    if isinstance(value, (np.generic, torch.Tensor)) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        remedy = "without quotes and with a point, such as 1.0e-4" if isinstance(value, str) else "such as 1.5"
        raise ValueError(f"{name} = {shown(value)} must be a number, {remedy}.")
    try:
        number = float(value)
    except OverflowError:  # an integer
        number = math.inf
    if not 0 <= number <= FLOAT32.max:
        raise ValueError(
            f"{name} = {shown(value)} must be finite and not negative: from 0 to {FLOAT32.max:.2g}, as float32."
        )
    return number


def whole_steps(num_inference_steps: int) -> int:
    """A number of steps as an int; a ValueError if it is none."""
    if isinstance(num_inference_steps, bool) or num_inference_steps not in range(1, MAX_STEPS + 1):
        raise ValueError(
            f"num_inference_steps = {shown(num_inference_steps)} must be a whole number from 1 to {MAX_STEPS:,}."
        )
    return int(num_inference_steps)


def _cosine_ratios(T: int) -> list[float]:
    # cos(pi / 2) is 6e-17 in floating point, and the last ratio must be 0.
    return [math.cos(math.pi * t / (2 * T)) for t in range(1, T)] + [0.0]
