"""The sampler of non-autoregressive (masked-token) transformers, with its strategy as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from ..strategies import GenerationStrategy


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


def gumbel_noise(
    shape: tuple[int, ...], generator: torch.Generator | list[torch.Generator] | None, device: torch.device
) -> torch.Tensor:
    """Standard Gumbel noise; one generator for the batch, or a list with one for each sample of it.

    Drawn on the generator's device and then moved, so that a CPU generator gives the same noise everywhere.
    """
    if isinstance(generator, list):
        return torch.cat([gumbel_noise((1, *shape[1:]), one, device) for one in generator])
    noise = torch.empty(shape, device=device if generator is None else generator.device)
    return noise.exponential_(generator=generator).log_().neg_().to(device)


def draw_tokens(logits: torch.Tensor, temperature: torch.Tensor, gumbel: torch.Tensor) -> torch.LongTensor:
    """Draw from softmax(logits / temperature) by the Gumbel-max rule, which is exact and holds at temperature 0 too."""
    return torch.addcmul(logits, temperature, gumbel).argmax(-1)


def mask_count(num_tokens: int, mask_ratio: torch.Tensor) -> torch.Tensor:
    """m = floor(N r), at least 1; a product that is whole but for float32 rounding (0.7 * 10) counts as whole."""
    return (num_tokens * (mask_ratio + 2e-7)).floor().clamp(min=1)


def remask(
    tokens: torch.LongTensor,
    logits: torch.Tensor,
    masked: torch.BoolTensor,
    mask_ratio: torch.Tensor,
    temperature: torch.Tensor,
    gumbel: torch.Tensor,
    mask_token_id: int,
) -> torch.LongTensor:
    """Mask the `m` least confident of the `masked` positions again.

    m = floor(N r), at least 1, and fewer than are masked now, so that every step reveals something. Confidence is
    log softmax(logits)[token], untempered, plus temperature * gumbel. All tensors are `[B, N]`, logits `[B, N, K]`.
    """
    confidence = logits.gather(-1, tokens.clamp(max=logits.shape[-1] - 1)[..., None]).squeeze(-1) - logits.logsumexp(
        -1
    )
    confidence = torch.where(masked, confidence + temperature * gumbel, float("inf"))
    count = torch.minimum(mask_count(tokens.shape[-1], mask_ratio), masked.sum(-1, keepdim=True) - 1)
    rank = confidence.argsort(dim=-1).argsort(dim=-1)
    return torch.where(rank < count, mask_token_id, tokens)


class NATScheduler(SchedulerMixin, ConfigMixin):
    r"""
    Parallel decoding of masked tokens with one set of parameters per step (AutoNAT, arXiv:2406.05478).

    A step t of T takes logits `l` of all N positions and

    1. draws a token at every masked position from \( \mathrm{softmax}(l / \tau_1(t)) \); known positions keep theirs;
    2. scores it with \( c = \log \mathrm{softmax}(l)[\mathrm{token}] \), without temperature;
    3. masks the \( \lfloor N r(t) \rfloor \) positions with the lowest \( c + \tau_2(t) \cdot \mathrm{Gumbel}(0, 1) \)
       again, at least 1 and fewer than are masked now; at the last step none.

    Tokens that are given are never redrawn and never masked; how many are given may differ from sample to sample.
    Guidance \( l = \mathrm{cond} + s(t) (\mathrm{cond} - \mathrm{uncond}) \) is applied by the pipeline, which reads
    `guidance_scales`.

    Args:
        mask_token_id (`int`, defaults to 1024): id of the mask token: the codebook size.
        strategies (`list[dict[str, list[float]]]`, *optional*): the strategies to serve, at most one per number of
            steps, each with the four fields of [`GenerationStrategy`]. Without any, `GenerationStrategy.cosine` is
            used for every number of steps.
    """

    order = 1

    @register_to_config
    def __init__(self, mask_token_id: int = 1024, strategies: list[dict[str, list[float]]] | None = None):
        if mask_token_id < 1:
            raise ValueError(f"mask_token_id = {mask_token_id} must be positive: it is the codebook size.")
        if strategies is not None:
            stored = [s if isinstance(s, GenerationStrategy) else GenerationStrategy.from_dict(s) for s in strategies]
            steps = [strategy.num_inference_steps for strategy in stored]
            if len(set(steps)) < len(steps):
                raise ValueError(f"strategies hold more than one strategy for one number of steps: {sorted(steps)}.")
            # Plain lists survive JSON to the last digit, whatever the caller passed.
            self.register_to_config(strategies=[strategy.to_dict() for strategy in stored])
        self.set_timesteps()

    @property
    def stored_strategies(self) -> dict[int, GenerationStrategy]:
        """The strategies of the config by number of steps."""
        stored = (GenerationStrategy.from_dict(strategy) for strategy in self.config.strategies or [])
        return {strategy.num_inference_steps: strategy for strategy in stored}

    def get_strategy(self, num_inference_steps: int | None = None) -> GenerationStrategy:
        """The strategy that is used for so many steps; without a number the longest stored one, or cosine with 8.

        Raises:
            ValueError: strategies are stored, but none with this number of steps.
        """
        stored = self.stored_strategies
        if not stored:
            return GenerationStrategy.cosine(8 if num_inference_steps is None else num_inference_steps)
        if num_inference_steps is None:
            num_inference_steps = max(stored)
        if num_inference_steps not in stored:
            raise ValueError(
                f"no strategy is stored for num_inference_steps={num_inference_steps}, only for {sorted(stored)}; "
                f"pass one, for example strategy=GenerationStrategy.cosine({num_inference_steps})."
            )
        return stored[num_inference_steps]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        strategy: GenerationStrategy | Sequence[GenerationStrategy] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Choose the strategy of the next run.

        Args:
            num_inference_steps: a stored number of steps, or any where none is stored.
            strategy: used instead of a stored one; a list gives each sample of the batch its own, all of equal length.
            device: where the four schedules `mask_ratios`, `sampling_temperatures`, `remasking_temperatures` and
                `guidance_scales` live, float32 `[T]` (`[T, B]` for a list). `timesteps` are indices and stay on the
                CPU, where reading them stalls nothing.
        """
        if strategy is None:
            strategy = self.get_strategy(num_inference_steps)
        strategies = [strategy] if isinstance(strategy, GenerationStrategy) else list(strategy)
        lengths = {one.num_inference_steps for one in strategies} | {
            num_inference_steps or len(strategies[0].mask_ratios)
        }
        if len(lengths) > 1:
            raise ValueError(f"num_inference_steps and the given strategies differ in length: {sorted(lengths)}.")
        for name, values in strategies[0].to_dict().items():
            tensor = (
                torch.tensor(values)
                if len(strategies) == 1
                else torch.tensor([getattr(s, name) for s in strategies]).T
            )
            if name == "mask_ratios":
                self._mask_ratios_on_host = tensor  # for `num_masked`
            setattr(self, name, tensor.to(device))
        self.num_inference_steps = strategies[0].num_inference_steps
        self.timesteps = torch.arange(self.num_inference_steps)
        # Known on the host, so that the pipeline can skip a pass without asking the device.
        self.is_guided = [
            any(one.guidance_scales[t] > 0 for one in strategies) for t in range(self.num_inference_steps)
        ]

    def num_masked(self, num_tokens: int) -> list[int] | None:
        """How many of `num_tokens` tokens are masked before each step when all are at the first: known without asking
        the device. None where samples have their own strategies.
        """
        if self._mask_ratios_on_host.ndim > 1:
            return None
        counts = [num_tokens]
        for count in mask_count(num_tokens, self._mask_ratios_on_host[:-1]).long().tolist():
            counts.append(max(min(count, counts[-1] - 1), 0))
        return counts

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.LongTensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> NATSchedulerOutput | tuple[torch.LongTensor, torch.LongTensor]:
        """
        Fill in the masked tokens and mask the least confident again.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, num_tokens, codebook_size)`): guided logits.
            timestep (`int`): index of the step, 0 to T - 1.
            sample (`torch.LongTensor` of shape `(batch_size, num_tokens)`): current tokens, `mask_token_id` where masked.
            generator: one for the batch, or a list with one for each sample.
            return_dict: return a [`NATSchedulerOutput`] rather than a tuple.
        """
        timestep = int(timestep)
        if not 0 <= timestep < self.num_inference_steps:
            raise ValueError(
                f"timestep = {timestep} is not one of the {self.num_inference_steps} steps that were set."
            )
        logits = model_output.float()
        masked = sample == self.config.mask_token_id
        r, tau1, tau2 = (
            schedule[timestep].view(-1, 1)  # [1, 1], or [B, 1] where samples have their own strategies
            for schedule in (self.mask_ratios, self.sampling_temperatures, self.remasking_temperatures)
        )

        tokens = draw_tokens(logits, tau1[..., None], gumbel_noise(logits.shape, generator, logits.device))
        tokens = torch.where(masked, tokens, sample)
        if timestep == self.num_inference_steps - 1:
            prev_sample = tokens
        else:
            gumbel = gumbel_noise(sample.shape, generator, logits.device)
            prev_sample = remask(tokens, logits, masked, r, tau2, gumbel, self.config.mask_token_id)

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
        """
        ratio = torch.as_tensor(mask_ratio, device=sample.device, dtype=torch.float32).view(-1, 1)
        count = (ratio * sample.shape[-1]).round().clamp(min=1)
        # The ranks of independent noise are a random permutation.
        rank = gumbel_noise(sample.shape, generator, sample.device).argsort(dim=-1).argsort(dim=-1)
        return torch.where(rank < count, self.config.mask_token_id, sample)
