"""What a user sees and changes while a pipeline runs: the state of a call, and the callback at the end of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback


StepCallback = Callable[[Any, int, int, dict[str, Any]], "dict[str, Any] | None"]


@dataclass
class CallState:
    """Of one call, so that calls in other threads, or inside a callback, keep theirs."""

    num_timesteps: int
    guidance_scale: float
    interrupt: bool = False


class CallStateMixin:
    """The state of the latest call, under the names that diffusers' callbacks read and write."""

    _state: CallState

    @property
    def num_timesteps(self) -> int:
        """Steps of the call."""
        return self._state.num_timesteps

    @property
    def guidance_scale(self) -> float:
        """What multiplies the strategy's guidance scales; a callback may set `_guidance_scale`."""
        return self._state.guidance_scale

    @property
    def interrupt(self) -> bool:
        """A callback may set `_interrupt` to leave out the remaining steps."""
        return self._state.interrupt

    @property
    def _guidance_scale(self) -> float:
        return self._state.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: float) -> None:
        self._state.guidance_scale = value

    @property
    def _interrupt(self) -> bool:
        return self._state.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._state.interrupt = value


def callback_tensors(callback: Any, names: Sequence[str] | None) -> list[str]:
    """Names of the tensors that a callback is given: its own, those asked for, or the latents."""
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    return ["latents"] if names is None else list(names)


def call_on_step_end(
    pipeline: Any, callback: StepCallback, step: int, tensors: dict[str, torch.Tensor], state: CallState
) -> torch.LongTensor | None:
    """
    Call a `callback_on_step_end` with some `tensors` of the loop; what it sets on the pipeline is set in `state`.

    Returns:
        The tokens to go on with where the callback replaced them or changed them in place, else None: what was computed
        from the others must not be reused then.
    """
    pipeline._state = state  # a call inside an earlier callback has left its own
    before = tensors.get("latents")
    version = None if before is None else before._version
    latents = (callback(pipeline, step, step, tensors) or {}).get("latents", before)
    pipeline._state = state
    changed = latents is not before or (before is not None and before._version != version)
    return latents if changed else None
