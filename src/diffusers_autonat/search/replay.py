"""Images of a strategy made from those of a similar one: only what differs is computed again.

Trials of a search share labels and noise. So up to the first step in which two strategies differ, their images are the
same; and where a changed step leaves all tokens of an image as they were, the next step begins as it did. What earlier
strategies gave is kept as traces, and a strategy is replayed from the trace it shares most steps with. A finite difference
in one parameter of step t so costs the steps after t, for those images that it changes; and step t where it changes guidance:
other schedules only read what the transformer said there, which is kept too.
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
from ..strategies import StepParameters, Strategy


TRACE_BYTES = 2**31  # kept of earlier strategies, beside the one in use


@dataclass
class _Images:
    """One call's images `[B, C, H, W]` (uint8), and how they came about.

    Args:
        tokens: `[B, N]` before each step, and after the last.
        streams: State of every image's noise before each step.
        logits: Guided, of every step and image `[masked tokens, K]`; empty where there is no room, or not all were made in one run.
    """

    tokens: list[Tensor]
    streams: list[list[Tensor]]
    images: Tensor
    logits: list[list[Tensor]] = field(default_factory=list)

    @property
    def logits_nbytes(self) -> int:
        return sum(part.nbytes for step in self.logits for part in step)

    @cached_property
    def nbytes(self) -> int:
        """Without logits."""
        states = [state for states in self.streams for state in states]
        return sum(part.nbytes for part in (*self.tokens, *states, self.images))


@dataclass
class _Trace:
    """What a strategy gave, by the first image of each call."""

    strategy: Strategy
    has_room: bool  # for logits of all its images
    calls: dict[int, _Images] = field(default_factory=dict)


class ReplayingEvaluator:
    """
    As `Evaluator`, for many similar strategies with one seed: what they share is computed once.

    Values are those of the evaluator but for rounding, since images that a change reaches are made in batches of another
    shape. A transformer that reuses features of earlier steps, as ENAT does, would lack them in the middle of its
    strategy: there nothing is shared, and neither with an order that masks revealed tokens again.

    Args:
        evaluator: What makes and measures images.
        trace_bytes: How much is kept of earlier strategies; the noise of an image alone takes 5 KB a step, its logits 4 K
            bytes for each token that is masked: they are the first to go.
    """

    def __init__(self, evaluator: Evaluator, trace_bytes: int = TRACE_BYTES):
        self.evaluator, self.trace_bytes = evaluator, trace_bytes
        self._pipeline = evaluator.pipeline
        # In the middle of a strategy it would take what was revealed for given: an order may mask that again.
        self._reuses = getattr(self._pipeline.transformer, "reuses_features", False) or getattr(
            self._pipeline.scheduler, "takes_back", False
        )
        self._traces: OrderedDict[tuple[int, Strategy], _Trace] = OrderedDict()
        self._centres: set[tuple[int, Strategy]] = set()  # that were made for others' sake

    def __call__(
        self, num_images: int, seed: int = 0, strategy: Strategy | None = None, near: Strategy | None = None
    ) -> dict[str, float]:
        """
        The metrics of `num_images` images, see `Evaluator`. Where the strategy is one of several small changes of another one, that
        is `near`: it is made first if no earlier call has made it, since all of them share most with it.
        """
        return dict(self.rungs([num_images], seed, strategy, near))[num_images]

    def rungs(
        self,
        num_images: Sequence[int],
        seed: int = 0,
        strategy: Strategy | None = None,
        near: Strategy | None = None,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """`(n, values)` for each n as images accumulate, see `Evaluator`; `near` as above."""
        if strategy is None:
            raise ValueError("what strategies share is computed once: give one")
        if self._reuses:
            return self.evaluator.rungs(num_images, seed, strategy)
        _, requests = self.evaluator.generation(max(num_images), seed)
        traces = [] if near is None or near == strategy else self._centre_traces(seed, near, max(num_images))
        traces.append(self._traces_of(seed, strategy, max(num_images)))

        def make_images(indices: Tensor, wanted: Requests) -> Tensor:
            start = int(indices[0])
            for base, own in traces:
                if start not in own.calls:
                    own.calls[start] = self._make(indices, wanted, seed, own, base)
                    self._forget((seed, own.strategy))
            return own.calls[start].images

        return self.evaluator.measure(make_images, requests, num_images)

    def _traces_of(self, seed: int, strategy: Strategy, num_images: int) -> tuple[_Trace | None, _Trace]:
        """The trace that shares most steps with a strategy, and the strategy's own."""
        steps, length = strategy.steps(), strategy.num_inference_steps
        alike = [key for key in self._traces if key[0] == seed and key[1].num_inference_steps == length]
        others = [key for key in alike if key[1] != strategy]
        # Of equals the one that was used last: the centre of differences rather than a neighbour.
        nearest = max(reversed(others), key=lambda key: _first_difference(key[1].steps(), steps), default=None)
        config = self._pipeline.transformer.config
        logits_nbytes = 4 * num_images * length * config.sample_size**2 * config.codebook_size  # at most
        own = self._traces.setdefault((seed, strategy), _Trace(strategy, logits_nbytes <= self.trace_bytes))
        self._traces.move_to_end((seed, strategy))
        if nearest is None:
            return None, own
        self._traces.move_to_end(nearest)
        return self._traces[nearest], own

    def _centre_traces(self, seed: int, centre: Strategy, num_images: int) -> list[tuple[_Trace | None, _Trace]]:
        """Of a centre that has still to be made, see `_traces_of`; it becomes the one that was used last in any case."""
        key, missing = (seed, centre), []
        # Where there was no room to keep it, it would be made again for each of its neighbours.
        if key not in self._traces and key not in self._centres:
            self._centres.add(key)
            missing = [self._traces_of(seed, centre, num_images)]
        if key in self._traces:
            self._traces.move_to_end(key)
        return missing

    def _forget(self, in_use: tuple[int, Strategy]) -> None:
        """Drop what was not used for longest until the rest fits: of each trace its logits, which only save a step, before the rest."""
        keys = sorted(self._traces, key=lambda key: key == in_use)  # that one last
        calls = {key: list(self._traces[key].calls.values()) for key in keys}
        size = sum(call.nbytes + call.logits_nbytes for some in calls.values() for call in some)
        for key, some in calls.items():
            for call in some:
                if size > self.trace_bytes:
                    size -= call.logits_nbytes
                    call.logits = []
            if size > self.trace_bytes and key != in_use:
                size -= sum(call.nbytes for call in some)
                del self._traces[key]

    def _make(self, indices: Tensor, wanted: Requests, seed: int, own: _Trace, base: _Trace | None) -> _Images:
        """One call's images, from the base's where it has them."""
        strategy, known = own.strategy, base.calls.get(int(indices[0])) if base is not None else None
        steps = strategy.steps()
        others = steps if base is None else base.strategy.steps()
        # What differs from the first step on would share little, and has neighbours of its own soon, which share its logits.
        differs = [one != other for one, other in zip(steps, others)]
        if known is None or (differs[0] and 2 * sum(differs) > len(steps)):
            generators = image_generators(indices, seed, self.evaluator.noise_device)
            tokens, streams, logits = self._run(wanted, strategy, generators, keep_logits=own.has_room)
            return _Images(tokens, streams, self._decode(tokens[-1]), logits)

        tokens = [step.clone() for step in known.tokens]
        streams = [list(states) for states in known.streams]
        for t in range(_first_difference(steps, others), len(steps)):
            changed, same = _changed(tokens[t], known.tokens[t])
            if steps[t:] == others[t:]:
                self._replay(wanted, strategy, tokens, streams, t, changed)
                break
            if known.logits and steps[t].guidance_scale == others[t].guidance_scale:
                self._step(strategy, tokens, streams, t, same, known.logits[t])
            else:
                changed = torch.arange(len(indices))
            self._replay(wanted, strategy, tokens, streams, t, changed, stop=True)
        images, (rows, _) = known.images, _changed(tokens[-1], known.tokens[-1])
        if len(rows):
            images = images.index_copy(0, rows, self._decode(tokens[-1][rows]))
        return _Images(tokens, streams, images)

    def _step(
        self,
        strategy: Strategy,
        tokens: list[Tensor],
        streams: list[list[Tensor]],
        t: int,
        rows: Tensor,
        logits: list[Tensor],
    ) -> None:
        """Step t of some images with what the transformer has said already, noted in `tokens`."""
        if not len(rows):
            return
        scheduler, device = self._pipeline.scheduler, self._pipeline.device
        before = tokens[t][rows]
        known = torch.cat([logits[row] for row in rows.tolist()])
        whole = known.new_zeros(*before.shape, known.shape[-1])  # tokens that stay have no say
        whole[before == scheduler.config.mask_token_id] = known
        parameters = scheduler.plan(strategy=strategy, device=device).parameters[t]
        generators = self._generators(streams, t, rows)
        made = scheduler.step(whole.to(device), t, before.to(device), generators, parameters=parameters)
        tokens[t + 1][rows] = made.prev_sample.cpu()

    def _generators(self, streams: list[list[Tensor]], t: int, rows: Tensor) -> list[torch.Generator]:
        """The noise of some images as it is before step t."""
        generators = [torch.Generator(self.evaluator.noise_device) for _ in range(len(rows))]
        for row, generator in zip(rows.tolist(), generators):
            generator.set_state(streams[t][row])
        return generators

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
        generators, rest = self._generators(streams, first, rows), _rest(strategy, first)
        # Before the first step there are no tokens to give.
        made, states, _ = self._run(wanted[rows], rest, generators, tokens[first][rows] if first else None, stop)
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
        keep_logits: bool = False,
    ) -> tuple[list[Tensor], list[list[Tensor]], list[list[Tensor]]]:
        """Tokens before each step and after the last, the state of noise before each, and logits; `stop` after one step."""
        pipeline = self._pipeline
        mask_token_id = pipeline.scheduler.config.mask_token_id
        streams = [[generator.get_state() for generator in generators]]
        shape = (len(generators), pipeline.transformer.config.sample_size**2)
        seen = [torch.full(shape, mask_token_id) if tokens is None else tokens]
        logits: list[list[Tensor]] = []

        def on_step_end(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
            if keep_logits:
                masked = seen[-1] == mask_token_id
                said = tensors["logits"][masked.to(tensors["logits"].device)].cpu()  # in one copy
                logits.append(list(said.split(masked.sum(dim=1).tolist())))
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
                callback_on_step_end_tensor_inputs=["latents", *(["logits"] if keep_logits else [])],
            )
        return seen, streams[:-1], logits

    def _decode(self, tokens: Tensor) -> Tensor:
        return to_uint8(self._pipeline.finish(tokens.to(self._pipeline.device), "pt", True).images).cpu()


def _first_difference(steps: Sequence[StepParameters], others: Sequence[StepParameters]) -> int:
    """Index of the first step in which two strategies of one length differ, or that length."""
    return next((t for t, (one, other) in enumerate(zip(steps, others)) if one != other), len(steps))


def _rest(strategy: Strategy, first: int) -> Strategy:
    """The steps from `first` on."""
    return type(strategy)(**{name: values[first:] for name, values in strategy.to_dict().items()})


def _changed(tokens: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that differ, and those that do not."""
    changed = (tokens != others).any(dim=1)
    return changed.nonzero().flatten(), (~changed).nonzero().flatten()
