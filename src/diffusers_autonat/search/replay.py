"""Images of a strategy made from those of a similar one: only what differs is computed again.

Trials of a search share labels and noise. So up to the first step in which two strategies differ, their images are the
same; and where a changed step leaves all tokens of an image as they were, all later steps do. What earlier strategies
gave is kept as traces, and a strategy is replayed from the trace it shares most steps with. A finite difference in one
parameter of step t so costs the steps from t on, for those images that it changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..metrics import Evaluator
from ..metrics.conditions import Requests
from ..metrics.extractors.base import to_uint8
from ..metrics.noise import image_generators
from ..strategies import Strategy


TRACE_BYTES = 2**30  # kept of earlier strategies, beside the one in use


@dataclass
class _Images:
    """One call's images `[B, C, H, W]` (uint8), and how they came about.

    Args:
        tokens: `[B, N]` before each step, and after the last.
        streams: State of every image's noise before each step.
    """

    tokens: list[Tensor]
    streams: list[list[Tensor]]
    images: Tensor

    @cached_property
    def nbytes(self) -> int:
        states = [state for states in self.streams for state in states]
        return sum(part.nbytes for part in (*self.tokens, *states, self.images))


@dataclass
class _Trace:
    """What a strategy gave, by the first image of each call."""

    strategy: Strategy
    calls: dict[int, _Images] = field(default_factory=dict)


class ReplayingEvaluator:
    """
    As `Evaluator`, for many similar strategies with one seed: what they share is computed once.

    Values are those of the evaluator but for rounding, since images that a change reaches are made in batches of another
    shape. A transformer that reuses features of earlier steps, as ENAT does, would lack them in the middle of its
    strategy: there nothing is shared, and neither with an order that masks revealed tokens again.

    Args:
        evaluator: What makes and measures images.
        trace_bytes: How much is kept of earlier strategies; the noise of an image alone takes 5 KB a step.
    """

    def __init__(self, evaluator: Evaluator, trace_bytes: int = TRACE_BYTES):
        self.evaluator, self.trace_bytes = evaluator, trace_bytes
        self._pipeline = evaluator.pipeline
        # In the middle of a strategy it would take what was revealed for given: an order may mask that again.
        self._reuses = getattr(self._pipeline.transformer, "reuses_features", False) or getattr(
            self._pipeline.scheduler, "takes_back", False
        )
        self._traces: OrderedDict[tuple[int, Strategy], _Trace] = OrderedDict()

    def __call__(self, num_images: int, seed: int = 0, strategy: Strategy | None = None) -> dict[str, float]:
        """The metrics of `num_images` images, see `Evaluator`."""
        return dict(self.rungs([num_images], seed, strategy))[num_images]

    def rungs(
        self, num_images: Sequence[int], seed: int = 0, strategy: Strategy | None = None
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """`(n, values)` for each n as images accumulate, see `Evaluator`."""
        if strategy is None:
            raise ValueError("what strategies share is computed once: give one")
        if self._reuses:
            return self.evaluator.rungs(num_images, seed, strategy)
        _, requests = self.evaluator.generation(max(num_images), seed)
        base, own = self._traces_of(seed, strategy)

        def make_images(indices: Tensor, wanted: Requests) -> Tensor:
            start = int(indices[0])
            if start not in own.calls:
                own.calls[start] = self._make(indices, wanted, seed, strategy, base)
                self._forget((seed, strategy))
            return own.calls[start].images

        return self.evaluator.measure(make_images, requests, num_images)

    def _traces_of(self, seed: int, strategy: Strategy) -> tuple[_Trace | None, _Trace]:
        """The trace that shares most steps with a strategy, and the strategy's own."""
        length = strategy.num_inference_steps
        alike = [key for key in self._traces if key[0] == seed and key[1].num_inference_steps == length]
        others = [key for key in alike if key[1] != strategy]
        # Of equals the one that was used last: the centre of differences rather than a neighbour.
        nearest = max(reversed(others), key=lambda key: _first_difference(key[1], strategy), default=None)
        own = self._traces.setdefault((seed, strategy), _Trace(strategy))
        self._traces.move_to_end((seed, strategy))
        if nearest is None:
            return None, own
        self._traces.move_to_end(nearest)
        return self._traces[nearest], own

    def _forget(self, in_use: tuple[int, Strategy]) -> None:
        """Drop the traces that were not used for longest until the rest fits."""
        sizes = {key: sum(call.nbytes for call in trace.calls.values()) for key, trace in self._traces.items()}
        for key in list(self._traces):
            if sum(sizes.values()) > self.trace_bytes and key != in_use:
                del self._traces[key], sizes[key]

    def _make(self, indices: Tensor, wanted: Requests, seed: int, strategy: Strategy, base: _Trace | None) -> _Images:
        """One call's images, from the base's where it has them."""
        known = base.calls.get(int(indices[0])) if base is not None else None
        if base is None or known is None:
            made = self._run(wanted, strategy, image_generators(indices, seed, self.evaluator.noise_device))
            return _Images(*made, self._decode(made[0][-1]))

        first, every = _first_difference(base.strategy, strategy), torch.arange(len(indices))
        tokens = [step.clone() for step in known.tokens]
        streams = [list(states) for states in known.streams]
        steps = strategy.steps()
        if steps[first + 1 :] == base.strategy.steps()[first + 1 :]:
            self._replay(wanted, strategy, tokens, streams, first, every, stop=True)
            first, every = first + 1, _changed(tokens[first + 1], known.tokens[first + 1])
        if first < len(steps):
            self._replay(wanted, strategy, tokens, streams, first, every)
        images, rows = known.images, _changed(tokens[-1], known.tokens[-1])
        if len(rows):
            images = images.index_copy(0, rows, self._decode(tokens[-1][rows]))
        return _Images(tokens, streams, images)

    def _replay(
        self,
        wanted: Requests,
        strategy: Strategy,
        tokens: list[Tensor],
        streams: list[list[Tensor]],
        first: int,
        rows: Tensor,
        stop: bool = False,
    ) -> None:
        """Run some images from a step on, or only that step, and note what comes of it in `tokens` and `streams`."""
        if not len(rows):
            return
        generators = []
        for row in rows.tolist():
            generators.append(torch.Generator(self.evaluator.noise_device))
            generators[-1].set_state(streams[first][row])
        rest = _rest(strategy, first)
        # Before the first step there are no tokens to give.
        made, states = self._run(wanted[rows], rest, generators, tokens[first][rows] if first else None, stop)
        for step, (after, before) in enumerate(zip(made[1:], states), first):
            tokens[step + 1][rows] = after
            for row, state in zip(rows.tolist(), before):
                streams[step][row] = state

    def _run(
        self,
        wanted: Requests,
        strategy: Strategy,
        generators: list[torch.Generator],
        tokens: Tensor | None = None,
        stop: bool = False,
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Tokens before each step and after the last, and the state of noise before each; `stop` after one step."""
        pipeline = self._pipeline
        streams = [[generator.get_state() for generator in generators]]
        shape = (len(generators), pipeline.transformer.config.sample_size**2)
        seen = [torch.full(shape, pipeline.scheduler.config.mask_token_id) if tokens is None else tokens]

        def on_step_end(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
            seen.append(tensors["latents"].cpu())
            streams.append([generator.get_state() for generator in generators])
            pipe._interrupt = stop

        with self.evaluator.first_steps_kept():
            pipeline(
                **wanted.arguments,
                strategy=strategy,
                generator=generators,
                latents=tokens,
                output_type="latent",
                callback_on_step_end=on_step_end,
            )
        return seen, streams[:-1]

    def _decode(self, tokens: Tensor) -> Tensor:
        return to_uint8(self._pipeline.finish(tokens.to(self._pipeline.device), "pt", True).images).cpu()


def _first_difference(one: Strategy, other: Strategy) -> int:
    """Index of the first step in which two strategies of one length differ, or that length."""
    pairs = zip(one.steps(), other.steps())
    return next((t for t, (a, b) in enumerate(pairs) if a != b), one.num_inference_steps)


def _rest(strategy: Strategy, first: int) -> Strategy:
    """The steps from `first` on."""
    return type(strategy)(**{name: values[first:] for name, values in strategy.to_dict().items()})


def _changed(tokens: Tensor, others: Tensor) -> Tensor:
    """Rows that differ."""
    return (tokens != others).any(dim=1).nonzero().flatten()
