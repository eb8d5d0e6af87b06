"""The first step once for each condition, not for each image.

A transformer that sees nothing but masks makes the same of all images that are asked for the same, whatever their noise. So
in the first step of a grid without tokens one row is run for each class or prompt, and one for no condition, and handed out.
Which images are asked for the same is told by names on the host: nothing waits for the device to compare conditions.

    with FirstStepCache().in_use():  # the same classes again and again: their first step once, not once a call
        for seed in range(100):
            pipe(range(10), generator=torch.Generator().manual_seed(seed))
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch


CACHE_BYTES = 2**30  # room for ImageNet's classes in float32, with 256 tokens of 1024 codes


class FirstPass(NamedTuple):
    """What a transformer makes of grids without tokens; every part has the batch in front.

    Args:
        logits: `[B, N, K]`.
        cache: For the next step, see `GuidedTransformer`.
        features: What a policy looks at, or None where there is no policy.
    """

    logits: torch.Tensor
    cache: Any = None
    features: torch.Tensor | None = None

    def rows(self) -> list[FirstPass]:
        """Batches of one."""
        size = len(self.logits)
        caches = [None] * size if self.cache is None else self.cache.chunk(size)
        features = [None] * size if self.features is None else self.features.chunk(size)
        return [FirstPass(*parts) for parts in zip(self.logits.chunk(size), caches, features)]

    @classmethod
    def cat(cls, rows: Sequence[FirstPass]) -> FirstPass:
        """Join along the batch; undoes `rows`."""
        logits, caches, features = zip(*rows)
        cache = None if caches[0] is None else type(caches[0]).cat(list(caches))
        return cls(torch.cat(logits), cache, None if features[0] is None else torch.cat(features))

    @property
    def nbytes(self) -> int:
        held = (self.logits, self.features, *(self.cache or {}).values())
        return sum(part.nbytes for part in held if part is not None)


@dataclass(frozen=True)
class FirstStep:
    """What the images of a call are asked for, by name.

    Args:
        names: Of the condition of each image `[B]`: of two with one name the conditions are equal. A text, the id of a class,
            or for what is known by itself alone an `object()`.
        null_names: The same of the unconditional pass.
        source: What else decides what a name stands for: the modules that see the condition, and values.
    """

    names: Sequence[Hashable]
    null_names: Sequence[Hashable]
    source: tuple[Any, ...]

    def repeat(self, batch: int, num_images_per_prompt: int = 1) -> FirstStep:
        """For `batch` requests, each so many times; names are one for all or one for each."""
        names, null_names = (
            [name for name in (given * batch if len(given) == 1 else given) for _ in range(num_images_per_prompt)]
            for given in (list(self.names), list(self.null_names))
        )
        return FirstStep(names, null_names, self.source)

    def run(self, run_rows: Callable[[list[int]], FirstPass], is_guided: bool, kind: Hashable = None) -> FirstPass:
        """
        The first step of all images, with the unconditional half behind where it is guided.

        Args:
            run_rows: The transformer on some rows of the batch, given their numbers.
            is_guided: Whether there is an unconditional half.
            kind: Of what `run_rows` returns: a [`FirstStepCache`] keeps kinds apart.
        """
        names = [*self.names, *self.null_names] if is_guided else list(self.names)
        first: dict[Hashable, int] = {}  # row of each name
        for row, name in enumerate(names):
            first.setdefault(name, row)
        # What is known by itself alone no other call can name.
        kept = None if any(type(name) is object for name in first) else _in_use.get()
        if kept is None and len(first) == len(names):
            return run_rows(list(first.values()))
        if kept is None:
            made = dict(zip(first, run_rows(list(first.values())).rows()))
        else:
            source = tuple(_state_of(part) for part in self.source)
            made = {
                name: kept.get((source, kind, name), functools.partial(run_rows, [row])) for name, row in first.items()
            }
        return FirstPass.cat([made[name] for name in names])


class FirstStepCache:
    """
    First steps that are kept from call to call; of any pipeline, by weights and condition. What was not used for longest goes
    when they take more than `max_bytes` (of the device's memory).

    A row that is kept is computed by itself, so that it does not depend on what else a call asks for; in the last digits it
    can differ from the same row in a batch. Weights are told apart by what torch counts as a change; after one that it does
    not see (through `.data`, or another LoRA adapter made active), begin with another cache.

    Args:
        max_bytes: One condition takes `4 N K` bytes in float32: 1 MB for 256 tokens of 1024 codes.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, FirstPass] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Calls of pipelines in the block, and in this thread, keep their first steps here."""
        before = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(before)

    def has_room_for(self, num_conditions: int, config: Mapping[str, Any]) -> bool:
        """Whether so many fit, of a transformer with this config."""
        num_logits = config.get("sample_size", 0) ** 2 * config.get("codebook_size", 0)
        return 4 * num_conditions * num_logits <= self.max_bytes

    def get(self, key: Hashable, make: Callable[[], FirstPass]) -> FirstPass:
        """What is kept under a key, or what `make` returns. Not to be changed in place."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            size = sum(one.nbytes for one in self._kept.values())
            while size > self.max_bytes:
                size -= self._kept.popitem(last=False)[1].nbytes
        return made


_in_use: ContextVar[FirstStepCache | None] = ContextVar("first_step_cache", default=None)
_numbers = itertools.count()
_number_of: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()  # an `id` is given to others again


def _state_of(part: Any) -> Hashable:
    """A module with its weights as they are now, without reading them; other values as themselves."""
    if not isinstance(part, torch.nn.Module):
        return part
    if part not in _number_of:
        _number_of[part] = next(_numbers)
    held = itertools.chain(part.parameters(), part.buffers())
    versions = ((id(one), 0 if one.is_inference() else one._version, one.dtype, one.device) for one in held)
    return _number_of[part], tuple(versions)
