"""What all orders share: strategies by number of steps, the plan of a call, and a step but for what it masks again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from ..messages import shown
from ..strategies import GenerationStrategy, Strategy, as_strategies, by_steps, whole_steps
from .masked_sampling import column, draw_tokens, gumbel_noise, mask_count


@dataclass
class NATSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample (`torch.LongTensor` of shape `(batch_size, num_tokens)`): the tokens for the next step, with those
            that the order does not reveal yet masked again.
        pred_original_sample (`torch.LongTensor` of shape `(batch_size, num_tokens)`): the same before re-masking: the
            model's whole guess at this step.
    """

    prev_sample: torch.LongTensor
    pred_original_sample: torch.LongTensor


@dataclass(frozen=True)
class SamplingPlan:
    """What one call of a sampler does: a value, so that calls with different plans can share a scheduler.

    Args:
        parameters: of each step.
        num_masked: how many tokens of every sample are masked before each step, where that is known without asking the
            device.
    """

    parameters: tuple[Any, ...]
    num_masked: tuple[int, ...] | None = None

    @property
    def timesteps(self) -> torch.LongTensor:
        """Indices of the steps; on the CPU, where reading them stalls nothing."""
        return torch.arange(len(self.parameters))


@dataclass(frozen=True)
class Guess:
    """The model's whole guess at a step, and what else decides what is masked again.

    Args:
        logits: `[B, N, K]`, guided, float32.
        tokens: `[B, N]`, drawn where `masked`, else as they were.
        masked: `[B, N]`, what was masked before the step.
        given: `[B, N]`, what was given before the first step, never to be masked; None where that is not known.
        num_to_fill: N, or `[B, 1]`: how many tokens shares such as r are of.
        generator: of the noise, as `step` was given it.
    """

    logits: torch.Tensor
    tokens: torch.LongTensor
    masked: torch.BoolTensor
    given: torch.BoolTensor | None
    num_to_fill: int | torch.Tensor
    generator: torch.Generator | list[torch.Generator] | None


class MaskedTokenScheduler(SchedulerMixin, ConfigMixin):
    """
    Base of the orders. A step draws a token at every masked position, and masks some again; which, and how many, is all
    that a subclass says (`mask_again`). Another kind of strategy than [`GenerationStrategy`] is its `strategy_class`.

    The module that defines a subclass imports `SchedulerMixin` by name: loading a saved pipeline looks it up there.
    """

    order = 1
    strategy_class: type[Strategy] = GenerationStrategy
    takes_back = False  # whether tokens that were revealed may be masked again

    @register_to_config
    def __init__(self, mask_token_id: int = 1024, strategies: list[dict[str, list[float]]] | None = None):
        if not isinstance(mask_token_id, int) or isinstance(mask_token_id, bool) or mask_token_id < 1:
            raise ValueError(
                f"mask_token_id = {shown(mask_token_id)} must be a positive whole number: the codebook size."
            )
        # diffusers takes what is passed by position for a default, which `from_config` of another order would leave out.
        self.register_to_config(_use_default_values=[])
        if strategies is not None:
            if not isinstance(strategies, (list, tuple)):
                raise ValueError(f"strategies = {shown(strategies)} must be a list with one for each number of steps.")
            stored = [self._own(s if isinstance(s, Strategy) else self._from_dict(s)) for s in strategies]
            by_steps(stored)  # refuses two for one number of steps
            # Plain lists survive JSON to the last digit, whatever the caller passed.
            self.register_to_config(strategies=[strategy.to_dict() for strategy in stored])
        self.set_timesteps()

    @classmethod
    def _from_dict(cls, values: Any) -> Any:
        return cls.strategy_class.from_dict(values)

    @classmethod
    def _own(cls, strategy: Strategy) -> Any:
        """The strategy, if it is one of this order's."""
        if not isinstance(strategy, cls.strategy_class):
            schedules = ", ".join(field.name for field in fields(cls.strategy_class))  # type: ignore[arg-type]
            raise ValueError(
                f"{cls.__name__} takes a {cls.strategy_class.__name__}, not a {type(strategy).__name__}: one with "
                f"{schedules}."
            )
        return strategy

    def heuristic(self, num_inference_steps: int) -> Any:
        """The strategy of this order where none is stored."""
        return GenerationStrategy.cosine(num_inference_steps)

    @property
    def stored_strategies(self) -> dict[int, Any]:
        """The strategies of the config by number of steps."""
        return by_steps([self._from_dict(strategy) for strategy in self.config.strategies or []])

    def get_strategy(self, num_inference_steps: int | None = None) -> Any:
        """The strategy that is used for so many steps; without a number the longest stored one, or the heuristic with 8.

        Raises:
            ValueError: strategies are stored, but none with this number of steps.
        """
        stored = self.stored_strategies
        if not stored:
            return self.heuristic(8 if num_inference_steps is None else whole_steps(num_inference_steps))
        num_inference_steps = max(stored) if num_inference_steps is None else whole_steps(num_inference_steps)
        if num_inference_steps not in stored:
            example = (
                f"GenerationStrategy.cosine({num_inference_steps})"
                if self.strategy_class is GenerationStrategy
                else f"scheduler.heuristic({num_inference_steps})"
            )
            raise ValueError(
                f"no strategy is stored for num_inference_steps={num_inference_steps}, only for {sorted(stored)}; "
                f"pass one, for example strategy={example}."
            )
        return stored[num_inference_steps]

    def plan(
        self,
        num_inference_steps: int | None = None,
        strategy: Strategy | Sequence[Strategy] | None = None,
        num_to_fill: int | None = None,
        device: torch.device | str | None = None,
    ) -> SamplingPlan:
        """
        What a call will do, leaving the scheduler as it is.

        Args:
            num_inference_steps: T of a stored strategy; the longest stored one by default.
            strategy: used instead of a stored one; a list holds one for each sample, all of one length.
            num_to_fill: how many tokens of every sample are masked at first, where that is known and the same for all:
                then the plan knows all counts.
            device: where parameters that differ between samples live.
        """
        strategies = self._choose(num_inference_steps, strategy)
        parameters = tuple(type(steps[0]).join(steps, device) for steps in zip(*(one.steps() for one in strategies)))
        if num_to_fill is None or len(strategies) > 1:
            return SamplingPlan(parameters)
        return SamplingPlan(parameters, self._num_masked(num_to_fill, parameters))

    def _choose(self, num_inference_steps: int | None, strategy: Strategy | Sequence[Strategy] | None) -> list[Any]:
        """One strategy for all samples, or one for each."""
        if strategy is None:
            strategy = self.get_strategy(num_inference_steps)
        strategies = [self._own(one) for one in as_strategies(strategy)]
        lengths = {one.num_inference_steps for one in strategies}
        if num_inference_steps is not None:
            lengths.add(whole_steps(num_inference_steps))
        if len(lengths) > 1:
            raise ValueError(f"num_inference_steps and the given strategies differ in length: {sorted(lengths)}.")
        return strategies

    def _num_masked(self, num_to_fill: int, parameters: Sequence[Any]) -> tuple[int, ...] | None:
        """Tokens that are masked before each step, of so many at first; None where only the device knows."""
        ratios = torch.tensor([step.mask_ratio for step in parameters[:-1]])
        counts = [num_to_fill]
        for count in mask_count(num_to_fill, ratios).long().tolist():
            counts.append(max(min(count, counts[-1] - 1), 0))
        return tuple(counts)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        strategy: Strategy | Sequence[Strategy] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """
        Choose the steps and the strategy that `step` takes where it is not given a step's parameters.

        Args:
            num_inference_steps, strategy: see `plan`.
            device: where the schedules live, attributes by their names in a strategy (`mask_ratios`,
                `sampling_temperatures`, ...), float32 `[T]` (`[T, B]` for a list). `timesteps` are indices and stay on
                the CPU, where reading them stalls nothing.
        """
        strategies = self._choose(num_inference_steps, strategy)
        self._plan = self.plan(strategy=strategies, device=device)
        self.timesteps = self._plan.timesteps
        self.num_inference_steps = len(self.timesteps)
        for name in strategies[0].to_dict():
            tensor = torch.tensor([getattr(one, name) for one in strategies]).T  # [T, B]
            setattr(self, name, tensor.squeeze(1).to(device) if len(strategies) == 1 else tensor.to(device))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.LongTensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        parameters: Any = None,
        num_to_fill: torch.Tensor | None = None,
        given: torch.BoolTensor | None = None,
    ) -> NATSchedulerOutput | tuple[torch.LongTensor, torch.LongTensor]:
        """
        Fill in the masked tokens and mask some again.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, num_tokens, codebook_size)`): guided logits.
            timestep (`int`): index of the step, 0 to T - 1.
            sample (`torch.LongTensor` of shape `(batch_size, num_tokens)`): current tokens, `mask_token_id` where masked.
            generator: one for the batch, or a list with one for each sample.
            return_dict: return a [`NATSchedulerOutput`] rather than a tuple.
            parameters ([`StepParameters`], *optional*): of this step, from a `plan` or a policy; by default those that
                `set_timesteps` has chosen for `timestep`.
            num_to_fill (`torch.Tensor` of shape `(batch_size,)`, *optional*): how many tokens r is a share of: those that
                were masked at first, where a small hole is to be filled over all steps. By default all N.
            given (`torch.BoolTensor` of shape `(batch_size, num_tokens)`, *optional*): which tokens were given before the
                first step. Only an order that masks revealed tokens again needs to know; by default none.
        """
        if parameters is None:
            timestep = int(timestep)
            if not 0 <= timestep < self.num_inference_steps:
                raise ValueError(
                    f"timestep = {timestep} is not one of the {self.num_inference_steps} steps that were set."
                )
            parameters = self._plan.parameters[timestep]
        logits = model_output.float()
        masked = sample == self.config.mask_token_id
        tau1 = column(parameters.sampling_temperature, logits.device)  # [1, 1], or [B, 1] where samples have their own

        tokens = draw_tokens(logits, tau1[..., None], gumbel_noise(logits.shape, generator, logits.device))
        tokens = torch.where(masked, tokens, sample)
        prev_sample = tokens
        if not parameters.is_last:
            total = tokens.shape[-1] if num_to_fill is None else num_to_fill[:, None]
            prev_sample = self.mask_again(parameters, Guess(logits, tokens, masked, given, total, generator))

        if not return_dict:
            return prev_sample, tokens
        return NATSchedulerOutput(prev_sample=prev_sample, pred_original_sample=tokens)

    @abstractmethod
    def mask_again(self, parameters: Any, guess: Guess) -> torch.LongTensor:
        """The tokens `[B, N]` of a step that is not the last, those masked that the order does not reveal yet.

        Args:
            parameters: of this step, by the `step_class` of the order's strategies.
            guess: what the model makes of the tokens.
        """

    def add_noise(
        self,
        sample: torch.LongTensor,
        mask_ratio: float | torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> torch.LongTensor:
        """Mask round(N r) random tokens of each sample, at least one: the forward process of training.

        Args:
            sample: tokens `[B, N]`. mask_ratio: r in [0, 1], one number or `[B]`.

        Raises:
            ValueError: one number that is not in [0, 1]. Tensors are not looked at, which would wait for the device.
        """
        if not isinstance(mask_ratio, torch.Tensor) and not 0 <= mask_ratio <= 1:
            raise ValueError(f"mask_ratio = {mask_ratio} must be in [0, 1].")
        ratio = torch.as_tensor(mask_ratio, device=sample.device, dtype=torch.float32).view(-1, 1)
        count = (ratio * sample.shape[-1]).round().clamp(min=1)
        # The ranks of independent noise are a random permutation.
        rank = gumbel_noise(sample.shape, generator, sample.device).argsort(dim=-1).argsort(dim=-1)
        return torch.where(rank < count, self.config.mask_token_id, sample)
