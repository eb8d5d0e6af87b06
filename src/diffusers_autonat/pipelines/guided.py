"""One denoiser for all pipelines: a transformer with its condition, both passes of guidance, and what it reuses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..models.policy_adaptive import AdaptivePolicyModel
from ..schedulers.masked_sampling import column
from ..strategies import Step
from .first_step import FirstPass, FirstStep


Condition = dict[str, torch.Tensor]  # arguments of the transformer, such as class_labels `[B]`


@dataclass(frozen=True)
class PolicyStep:
    """A step whose parameters a policy sets, when it has seen the features of the conditional pass.

    Args:
        timestep: Index of the step.
        is_guided: Both passes are run, since a policy may guide any image.
    """

    timestep: int
    is_guided: bool = True


class GuidedTransformer:
    """
    Guided logits of one call's images, step after step.

    The conditional and the unconditional pass run as one batch; a step without guidance has no unconditional one. What
    the transformer hands out as `cache` goes into the next step's call, for both passes or for the conditional one. The
    first step of grids without tokens is run once for each condition, not for each image.

    After a call, `parameters` are those of its step: as they were given, or as the policy has set them.

    Args:
        transformer: Called as `transformer(tokens, cache=, num_masked=, **condition)`; its output has `sample`, logits
            `[B, N, K]`, and `cache`, None or something with `chunk` and `cat` along the batch; for a policy also `features`,
            `[B, positions, D]`.
        condition: What the images are asked for; every tensor has the batch in front.
        null_condition: The same for no condition.
        policy: Sets the parameters of every [`PolicyStep`].
        first_step: Which images are asked for the same, where all tokens of all images are masked before the first step.
    """

    parameters: Any

    def __init__(
        self,
        transformer: Any,
        condition: Condition,
        null_condition: Condition,
        policy: AdaptivePolicyModel | None = None,
        first_step: FirstStep | None = None,
    ):
        self.transformer, self.policy = transformer, policy
        self._action: torch.Tensor | None = None  # of the policy, in the step before
        self._features: torch.Tensor | None = None  # of the latest pass, conditional images first
        self.condition, self.null_condition = condition, null_condition
        self._first_step = first_step  # until it is run
        self._extremes: list[torch.Tensor] = []  # smallest and largest logit of each step, on the device
        self.forget()

    @cached_property
    def both(self) -> Condition:
        """Both conditions as one batch; joined once, and only where some step is guided."""
        return {name: torch.cat([tensor, self.null_condition[name]]) for name, tensor in self.condition.items()}

    def check_finite(self) -> None:
        """
        Raise if the logits of any step so far were NaN or infinite. Waits for the device, so it is called once, at the end.

        Raises:
            ValueError: names the first such step, the dtype, and what to look at.
        """
        finite = torch.stack(self._extremes).isfinite().all(dim=1).tolist()
        if not all(finite):
            dtype = str(self.transformer.dtype).removeprefix("torch.")
            raise ValueError(
                f"the transformer's logits are not finite in step {finite.index(False)} of this call ({dtype}): its weights "
                "are damaged, or values overflow; load it again, use float32 or bfloat16, or less guidance."
            )

    def forget(self) -> None:
        """Reuse nothing in the next step: tokens were changed from outside."""
        self._cache: Any = None
        self._both_cached = False

    def __call__(
        self,
        tokens: torch.LongTensor,
        parameters: Step | PolicyStep,
        num_masked: int | None = None,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """
        Logits `[B, N, K]`, float32 where they are guided.

        Args:
            tokens: `[B, N]`, the codebook size where masked.
            parameters: Of the step; read is s in `cond + s * (cond - uncond)`. Or that a policy decides.
            num_masked: Masked tokens of every sample, where that is known: then nothing waits for the device.
            guidance_scale: Multiplies s.
        """
        is_guided = parameters.is_guided and guidance_scale != 0
        logits, uncond = self._passes(tokens, num_masked, is_guided)
        self.parameters = self._decide(parameters) if isinstance(parameters, PolicyStep) else parameters
        if is_guided:
            scale = column(self.parameters.guidance_scale, logits.device)[..., None] * guidance_scale  # [1 or B, 1, 1]
            # cond + scale * (cond - uncond) in float32, with no more copies of so many numbers than it takes
            logits = (logits - uncond.float()).mul_(scale).add_(logits)
        self._extremes.append(torch.stack(torch.aminmax(logits)))
        return logits

    def _decide(self, step: PolicyStep) -> Step:
        """What the policy makes of the features of the conditional pass."""
        assert self.policy is not None and self._features is not None
        decided = self.policy(self._features[: len(next(iter(self.condition.values())))], step.timestep, self._action)
        self._action = decided.action
        return decided.parameters

    def _passes(self, tokens: torch.LongTensor, num_masked: int | None, is_guided: bool) -> tuple[torch.Tensor, Any]:
        """Logits of the conditional and of the unconditional pass; without guidance the second is None."""
        if self._first_step is not None:
            return self._first_passes(tokens, is_guided)
        if not is_guided:
            if self._both_cached:
                self._cache = self._cache.chunk(2)[0]
            return self._run(tokens, self.condition, num_masked), None
        if self._cache is not None and not self._both_cached:
            # The step before was not guided: the unconditional pass has nothing to reuse, and its own, larger cost.
            cond = self._run(tokens, self.condition, num_masked)
            cond_cache, self._cache, cond_features = self._cache, None, self._features
            uncond = self._run(tokens, self.null_condition, num_masked)
            self._features = cond_features
            self._cache = type(cond_cache).cat([cond_cache, self._cache])
        else:
            cond, uncond = self._run(torch.cat([tokens, tokens]), self.both, num_masked).chunk(2)
        self._both_cached = self._cache is not None
        return cond, uncond

    def _first_passes(self, tokens: torch.LongTensor, is_guided: bool) -> tuple[torch.Tensor, Any]:
        """As `_passes` of grids without tokens, once for each condition."""
        assert self._first_step is not None
        condition = self.both if is_guided else self.condition

        def run_rows(rows: list[int]) -> FirstPass:
            some = {name: torch.cat([tensor[i : i + 1] for i in rows]) for name, tensor in condition.items()}
            self._cache = None  # there is no step before, only other rows
            logits = self._run(tokens[:1].expand(len(rows), -1), some, tokens.shape[1])
            return FirstPass(logits, self._cache, self._features)

        logits, self._cache, self._features = self._first_step.run(run_rows, is_guided, self.policy is None)
        self._first_step, self._both_cached = None, is_guided and self._cache is not None
        return logits.chunk(2) if is_guided else (logits, None)  # type: ignore[return-value]

    def _run(self, tokens: torch.LongTensor, condition: Condition, num_masked: int | None) -> torch.Tensor:
        output = self.transformer(tokens, cache=self._cache, num_masked=num_masked, **condition)
        self._cache, self._both_cached = output.cache, False
        self._features = output.features if self.policy is not None else None
        return output.sample
