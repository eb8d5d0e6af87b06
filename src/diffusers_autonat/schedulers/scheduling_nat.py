"""The sampler of non-autoregressive (masked-token) transformers, with its strategy as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as shortened

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from ..strategies import SCHEDULES, GenerationStrategy, StepParameters, as_strategies, by_steps, whole_steps
from .masked_sampling import column, draw_tokens, gumbel_noise, log_confidence, mask_count, mask_lowest


@dataclass
class NATSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample (`torch.LongTensor` of shape `(batch_size, num_tokens)`): the tokens for the next step, with the
            least confident ones masked again.
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

    parameters: tuple[StepParameters, ...]
    num_masked: tuple[int, ...] | None = None

    @property
    def timesteps(self) -> torch.LongTensor:
        """Indices of the steps; on the CPU, where reading them stalls nothing."""
        return torch.arange(len(self.parameters))


class NATScheduler(SchedulerMixin, ConfigMixin):
    r"""
    Parallel decoding of masked tokens with one set of parameters per step (AutoNAT, arXiv:2406.05478).

    A step t of T takes logits `l` of all N positions and

    1. draws a token at every masked position from \( \mathrm{softmax}(l / \tau_1(t)) \); known positions keep theirs;
    2. scores it with \( c = \log \mathrm{softmax}(l)[\mathrm{token}] \), without temperature;
    3. masks the \( \lfloor N r(t) \rfloor \) (or so many of a given number to fill) positions with the lowest \( c + \tau_2(t) \cdot \mathrm{Gumbel}(0, 1) \)
       again, at least 1 and fewer than are masked now; at the last step none.

    Tokens that are given are never redrawn and never masked; how many are given may differ from sample to sample.
    Guidance \( l = \mathrm{cond} + s(t) (\mathrm{cond} - \mathrm{uncond}) \) is applied by the pipeline.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): the strategies to serve, at most one per number of
            steps, each with the four fields of [`GenerationStrategy`]. Without any, `GenerationStrategy.cosine` is
            used for every number of steps.
    """

    order = 1

    @register_to_config
    def __init__(self, mask_token_id: int = 1024, strategies: list[dict[str, list[float]]] | None = None):
        if not isinstance(mask_token_id, int) or isinstance(mask_token_id, bool) or mask_token_id < 1:
            raise ValueError(
                f"mask_token_id = {shortened(mask_token_id)} must be a positive whole number: the codebook size."
            )
        if strategies is not None:
            if not isinstance(strategies, (list, tuple)):
                raise ValueError(
                    f"strategies = {shortened(strategies)} must be a list with one for each number of steps."
                )
            stored = [s if isinstance(s, GenerationStrategy) else GenerationStrategy.from_dict(s) for s in strategies]
            by_steps(stored)  # refuses two for one number of steps
            # Plain lists survive JSON to the last digit, whatever the caller passed.
            self.register_to_config(strategies=[strategy.to_dict() for strategy in stored])
        self.set_timesteps()

    @property
    def stored_strategies(self) -> dict[int, GenerationStrategy]:
        """The strategies of the config by number of steps."""
        return by_steps([GenerationStrategy.from_dict(strategy) for strategy in self.config.strategies or []])

    def get_strategy(self, num_inference_steps: int | None = None) -> GenerationStrategy:
        """The strategy that is used for so many steps; without a number the longest stored one, or cosine with 8.

        Raises:
            ValueError: strategies are stored, but none with this number of steps.
        """
        stored = self.stored_strategies
        if not stored:
            return GenerationStrategy.cosine(8 if num_inference_steps is None else num_inference_steps)
        num_inference_steps = max(stored) if num_inference_steps is None else whole_steps(num_inference_steps)
        if num_inference_steps not in stored:
            raise ValueError(
                f"no strategy is stored for num_inference_steps={num_inference_steps}, only for {sorted(stored)}; "
                f"pass one, for example strategy=GenerationStrategy.cosine({num_inference_steps})."
            )
        return stored[num_inference_steps]

    def plan(
        self,
        num_inference_steps: int | None = None,
        strategy: GenerationStrategy | Sequence[GenerationStrategy] | None = None,
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
        parameters = tuple(StepParameters.join(steps, device) for steps in zip(*(one.steps() for one in strategies)))
        if num_to_fill is None or len(strategies) > 1:
            return SamplingPlan(parameters)
        return SamplingPlan(parameters, self._num_masked(num_to_fill, parameters))

    def _choose(
        self, num_inference_steps: int | None, strategy: GenerationStrategy | Sequence[GenerationStrategy] | None
    ) -> list[GenerationStrategy]:
        """One strategy for all samples, or one for each."""
        if strategy is None:
            strategy = self.get_strategy(num_inference_steps)
        strategies = as_strategies(strategy)
        lengths = {one.num_inference_steps for one in strategies}
        if num_inference_steps is not None:
            lengths.add(whole_steps(num_inference_steps))
        if len(lengths) > 1:
            raise ValueError(f"num_inference_steps and the given strategies differ in length: {sorted(lengths)}.")
        return strategies

    @staticmethod
    def _num_masked(num_to_fill: int, parameters: Sequence[StepParameters]) -> tuple[int, ...]:
        """Tokens that are masked before each step, of so many at first."""
        ratios = torch.tensor([step.mask_ratio for step in parameters[:-1]])
        counts = [num_to_fill]
        for count in mask_count(num_to_fill, ratios).long().tolist():
            counts.append(max(min(count, counts[-1] - 1), 0))
        return tuple(counts)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        strategy: GenerationStrategy | Sequence[GenerationStrategy] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """
        Choose the steps and the strategy that `step` takes where it is not given a step's parameters.

        Args:
            num_inference_steps, strategy: see `plan`.
            device: where the four schedules `mask_ratios`, `sampling_temperatures`, `remasking_temperatures` and
                `guidance_scales` live, float32 `[T]` (`[T, B]` for a list). `timesteps` are indices and stay on the
                CPU, where reading them stalls nothing.
        """
        strategies = self._choose(num_inference_steps, strategy)
        self._plan = self.plan(strategy=strategies, device=device)
        self.timesteps = self._plan.timesteps
        self.num_inference_steps = len(self.timesteps)
        for name in SCHEDULES:
            tensor = torch.tensor([getattr(one, name) for one in strategies]).T  # [T, B]
            setattr(self, name, tensor.squeeze(1).to(device) if len(strategies) == 1 else tensor.to(device))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.LongTensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        parameters: StepParameters | None = None,
        num_to_fill: torch.Tensor | None = None,
    ) -> NATSchedulerOutput | tuple[torch.LongTensor, torch.LongTensor]:
        """
        Fill in the masked tokens and mask the least confident again.

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
        r, tau1, tau2 = (
            column(value, logits.device)  # [1, 1], or [B, 1] where samples have their own
            for value in (parameters.mask_ratio, parameters.sampling_temperature, parameters.remasking_temperature)
        )

        tokens = draw_tokens(logits, tau1[..., None], gumbel_noise(logits.shape, generator, logits.device))
        tokens = torch.where(masked, tokens, sample)
        prev_sample = tokens
        if not parameters.is_last:
            gumbel = gumbel_noise(sample.shape, generator, logits.device)
            score = log_confidence(logits, tokens) + tau2 * gumbel
            count = mask_count(tokens.shape[-1] if num_to_fill is None else num_to_fill[:, None], r)
            prev_sample = mask_lowest(tokens, score, masked, count, self.config.mask_token_id)

        if not return_dict:
            return prev_sample, tokens
        return NATSchedulerOutput(prev_sample=prev_sample, pred_original_sample=tokens)

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
