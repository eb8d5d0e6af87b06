"""One denoiser for all pipelines: a transformer with its condition, both passes of guidance, and what it reuses."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from ..schedulers.masked_sampling import column
from ..strategies import StepParameters


Condition = dict[str, torch.Tensor]  # arguments of the transformer, such as class_labels `[B]`


class GuidedTransformer:
    """
    Guided logits of one call's images, step after step.

    The conditional and the unconditional pass run as one batch; a step without guidance has no unconditional one. What
    the transformer hands out as `cache` goes into the next step's call, for both passes or for the conditional one.

    Args:
        transformer: Called as `transformer(tokens, cache=, num_masked=, **condition)`; its output has `sample`, logits
            `[B, N, K]`, and `cache`, None or something with `chunk` and `cat` along the batch.
        condition: What the images are asked for; every tensor has the batch in front.
        null_condition: The same for no condition.
    """

    def __init__(self, transformer: Any, condition: Condition, null_condition: Condition):
        self.transformer = transformer
        self.condition, self.null_condition = condition, null_condition
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
        parameters: StepParameters,
        num_masked: int | None = None,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """
        Logits `[B, N, K]`, float32 where they are guided.

        Args:
            tokens: `[B, N]`, the codebook size where masked.
            parameters: Of the step; read is s in `cond + s * (cond - uncond)`.
            num_masked: Masked tokens of every sample, where that is known: then nothing waits for the device.
            guidance_scale: Multiplies s.
        """
        logits = self._guided(tokens, parameters, num_masked, guidance_scale)
        self._extremes.append(torch.stack(torch.aminmax(logits)))
        return logits

    def _guided(
        self, tokens: torch.LongTensor, parameters: StepParameters, num_masked: int | None, guidance_scale: float
    ) -> torch.Tensor:
        if not parameters.is_guided or guidance_scale == 0:
            if self._both_cached:
                self._cache = self._cache.chunk(2)[0]
            return self._run(tokens, self.condition, num_masked)
        if self._cache is not None and not self._both_cached:
            # The step before was not guided: the unconditional pass has nothing to reuse, and its own, larger cost.
            cond = self._run(tokens, self.condition, num_masked)
            cond_cache, self._cache = self._cache, None
            uncond = self._run(tokens, self.null_condition, num_masked)
            self._cache = type(cond_cache).cat([cond_cache, self._cache])
        else:
            cond, uncond = self._run(torch.cat([tokens, tokens]), self.both, num_masked).chunk(2)
        self._both_cached = self._cache is not None
        scale = column(parameters.guidance_scale, cond.device)[..., None] * guidance_scale  # [1 or B, 1, 1]
        cond, uncond = cond.float(), uncond.float()
        return cond + scale * (cond - uncond)

    def _run(self, tokens: torch.LongTensor, condition: Condition, num_masked: int | None) -> torch.Tensor:
        output = self.transformer(tokens, cache=self._cache, num_masked=num_masked, **condition)
        self._cache, self._both_cached = output.cache, False
        return output.sample
