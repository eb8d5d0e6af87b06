"""Evaluate a pipeline: images in, numbers out, the same numbers on every machine layout.

    evaluator = Evaluator(pipeline, extractor, reference)
    evaluator(1000, seed=0, num_inference_steps=8)   # {"frechet_distance": ..., "class_consistency": ...}

What makes a number reproducible:

- Image i draws its noise from a stream of its own that depends on the seed and on i alone, and what it is asked to be
  on nothing else either, so the first n of N images are the n images of a shorter run.
- Matrix products round differently in another batch shape, which can turn a token or a grey level. So images are
  always made in calls of `extractor.batch_size`, image i at place i modulo that; the last call is filled up and its
  excess dropped. `batch_size`, the number of processes and an interruption only decide which calls are made where and
  when. (On a CPU the number of threads rounds differently too; keep it.)
- The statistics do not depend on the order of the images (`statistics`).

The first step is the same for all images of a class, so it is made once for each class and kept; by itself, so that no
layout changes it (`FirstStepCache`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..pipelines.first_step import FirstStepCache
from ..pipelines.prompts import takes_prompts
from .conditions import Conditions, Requests, class_conditions
from .evaluation_checkpoint import EvaluationCheckpoint
from .extractors import FeatureExtractor
from .extractors.base import to_uint8
from .noise import image_generators
from .processes import process_rank
from .r_precision import CANDIDATES
from .references import Reference
from .registry import METRICS, SECOND, check_num_images
from .statistics import statistics_device
from .suite import MetricSuite, values_of


if TYPE_CHECKING:
    from ..strategies import Strategy

# Images `[B, C, H, W]`, given the index of each in the whole set `[B]` and what it is asked to be.
MakeImages = Callable[[Tensor, Requests], Tensor]
# Takes images, their class labels `[B]` or None, and their indices `[B]`.
OnImages = Callable[[Tensor, "Tensor | None", Tensor], None]
# What suites see of images, by the prefix of the suite's values.
Seen = dict[str, dict[str, Tensor]]


class Evaluator:
    """Generates images with a pipeline and measures them.

    Args:
        pipeline: anything called as `pipeline(**what is asked, num_inference_steps=, strategy=, guidance_scale=,
            generator=[one for each image], output_type="pt").images`, where images of classes are asked for with
            `class_labels=` and it has `transformer.config.num_classes`. Its own progress bars are turned off.
        extractor: what makes features and logits, on the device where statistics are to be kept.
        reference: what distances compare with; None if no metric needs one.
        metrics: some of `registry.METRICS`. Results are named after the network: `fid` gives `frechet_distance` unless
            the extractor is the standard Inception network.
        label_policy: `balanced`, `uniform` or `reference` (`conditions.LABEL_POLICIES`): which classes images are of.
        batch_size: images generated before they are measured, rounded up to whole calls; changes memory, not results.
        progress: show a progress bar with images/s and the time left.
        conditions: what images are asked to be where that is not classes by `label_policy`.
        second: what else the same images are measured by; the names of its values begin with `second_`.

    Raises:
        ValueError: metrics, extractor, reference and pipeline do not fit together.
    """

    def __init__(
        self,
        pipeline: Any,
        extractor: FeatureExtractor,
        reference: Reference | None = None,
        metrics: Sequence[str] = ("fid", "class"),
        label_policy: str = "balanced",
        batch_size: int = 128,
        progress: bool = True,
        conditions: Conditions | None = None,
        second: MetricSuite | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1.")
        if conditions is None and takes_prompts(pipeline):
            raise ValueError(
                "the pipeline draws from prompts: give some, as conditions=CaptionConditions([...]) or --captions FILE."
            )
        if conditions is None:
            conditions = class_conditions(label_policy, int(pipeline.transformer.config.num_classes), reference)
        self.suites = {"": MetricSuite(extractor, reference, tuple(metrics))}
        if second is not None:
            self.suites[SECOND] = second
        for suite in self.suites.values():
            suite.build(2)  # says now what cannot work
            for name in suite.metrics:
                known = suite.extractor.num_classes
                if METRICS[name].needs_class_labels and conditions.num_classes != known:
                    asked = (
                        f"the pipeline has {conditions.num_classes}" if conditions.num_classes else "none is asked for"
                    )
                    raise ValueError(
                        f"{name} asks {suite.extractor.name} for its opinion, but it knows {known} classes and {asked}: "
                        f"take a classifier of the same classes, or leave {name} out."
                    )
                if METRICS[name].needs_prompts and not takes_prompts(pipeline):
                    raise ValueError(
                        f"{name} asks which caption an image shows, and the pipeline draws classes: leave it out."
                    )
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.extractor, self.reference = pipeline, extractor, reference
        self.metrics, self.conditions = tuple(metrics), conditions
        self.batch_size, self.progress = batch_size, progress
        self.resumed_images = 0  # of the latest run
        self._first_steps = FirstStepCache()

    def __call__(
        self,
        num_images: int,
        seed: int = 0,
        strategy: Strategy | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        **options: Any,
    ) -> dict[str, float]:
        """The metrics of `num_images` generated images; on every process the same.

        Args:
            num_images: N, over all processes together.
            seed: of noise and conditions; the same seed gives the same images.
            strategy: used instead of a stored one.
            num_inference_steps: T of a stored strategy.
            guidance_scale: multiplies the strategy's own scales.
            options: further arguments of `measure`.
        """
        results = self.rungs([num_images], seed, strategy, num_inference_steps, guidance_scale, **options)
        return dict(results)[num_images]

    def rungs(
        self,
        num_images: Sequence[int],
        seed: int = 0,
        strategy: Strategy | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        **options: Any,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """`(n, values)` for each n of `num_images` as images accumulate: what a run of n images alone would give.

        Stop iterating to stop generating. Arguments as above.
        """
        if not num_images:
            raise ValueError("num_images is empty: name how many images to evaluate.")
        make_images, requests = self.generation(max(num_images), seed, strategy, num_inference_steps, guidance_scale)
        return self.measure(make_images, requests, num_images, **options)

    @property
    def noise_device(self) -> str:
        """Where noise is drawn: `cuda` for a pipeline there, which then need not wait for copies, else `cpu`."""
        return "cuda" if torch.device(self.pipeline.device).type == "cuda" else "cpu"

    def first_steps_kept(self) -> AbstractContextManager:
        """Where calls of the pipeline keep first steps: of classes, if all have room. Prompts hardly come back."""
        num_classes = None if takes_prompts(self.pipeline) else self.conditions.num_classes
        if num_classes is None or not self._first_steps.has_room_for(
            num_classes + 1, self.pipeline.transformer.config
        ):
            return nullcontext()
        return self._first_steps.in_use()

    def generation(
        self,
        num_images: int,
        seed: int = 0,
        strategy: Strategy | Sequence[Strategy] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[MakeImages, Requests]:
        """The first two arguments of `measure` for generated images; a list holds a strategy for each of one call."""
        device = self.pipeline.device if self.noise_device == "cuda" else "cpu"
        image_generators(torch.arange(1), seed)  # refuses a bad seed now

        def generate(indices: Tensor, requests: Requests) -> Tensor:
            with self.first_steps_kept():
                return self.pipeline(
                    **requests.arguments,
                    num_inference_steps=num_inference_steps,
                    strategy=strategy,
                    guidance_scale=guidance_scale,
                    generator=image_generators(indices, seed, device),
                    output_type="pt",
                ).images

        calls = math.ceil(num_images / self.extractor.batch_size)
        return generate, self.conditions.requests(calls * self.extractor.batch_size, seed)

    @torch.no_grad()
    def measure(
        self,
        make_images: MakeImages,
        requests: Requests,
        num_images: Sequence[int],
        description: str = "evaluate",
        on_images: OnImages | None = None,
        checkpoint: EvaluationCheckpoint | None = None,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """As `rungs`, for images from anywhere.

        Args:
            make_images: images `[B, C, H, W]`, in [0, 1] or uint8, given their indices `[B]` and what they are asked
                to be.
            requests: for each index. Indices up to a multiple of `extractor.batch_size` are asked for where there are
                requests for them, so that every call has the same shape.
            num_images: the rungs, rising.
            description: what the progress bar says.
            on_images: given each call's images (uint8, on the CPU), class labels or None, and indices, e.g. to save
                them. Runs in a thread of its own, one call at a time and never for more than one batch behind.
            checkpoint: where to keep what is done, and continue from.
        """
        rungs = list(num_images)
        if not rungs or rungs[0] < 2 or rungs != sorted(set(rungs)):
            raise ValueError(f"num_images = {rungs} must be whole numbers of at least 2 that rise.")
        self._check(rungs, requests)
        call_size, (rank, world) = self.extractor.batch_size, process_rank()
        device = statistics_device(next(self.extractor.parameters()).device)
        collections = {(prefix, n): s.build(n).to(device) for prefix, s in self.suites.items() for n in rungs}
        kept = {f"{prefix}{n}" if prefix else n: one for (prefix, n), one in collections.items()}
        done = checkpoint.load(kept, device) if checkpoint else set()
        all_calls = range(math.ceil(rungs[-1] / call_size))
        todo = [call for call in all_calls if call not in done][rank::world]
        own: list[int] = []
        finished = self.resumed_images = sum(min(call_size, rungs[-1] - call * call_size) for call in done)
        hidden = not self.progress or rank > 0
        calls_at_once = math.ceil(self.batch_size / call_size)
        shown = tqdm(total=rungs[-1], initial=finished, unit=" images", desc=description, disable=hidden)
        with shown as bar, ThreadPoolExecutor(max_workers=1) as writer:
            written: Future[None] | None = None
            for n in rungs:
                now = [call for call in todo if call * call_size < n]
                todo = todo[len(now) :]
                for batch in (now[i : i + calls_at_once] for i in range(0, len(now), calls_at_once)):
                    pieces = []
                    for call in batch:
                        pieces.append(self._make(make_images, requests, call, rungs[-1]))
                        # The other processes are as far as this one.
                        bar.update(min(len(pieces[-1][1]) * world, rungs[-1] - bar.n))
                    images, indices = (torch.cat(parts) for parts in zip(*pieces))
                    images = to_uint8(images)  # looks at the values, so a GPU is waited for once a batch
                    if on_images is not None:
                        if written:
                            written.result()  # raises what was raised there
                        sizes = [len(part) for _, part in pieces]
                        written = writer.submit(_hand_over, on_images, images, requests, indices, sizes)
                    seen = {prefix: suite.see(images, indices) for prefix, suite in self.suites.items()}
                    for (prefix, rung), collection in collections.items():
                        _update(collection, seen[prefix], indices, requests, rung)
                    own += batch
                    if checkpoint and checkpoint.is_due:
                        if written:
                            written.result()  # images of which the checkpoint says that they are done
                        checkpoint.save(kept, own)
                if written:
                    written.result()
                yield n, {p + name: v for p in self.suites for name, v in values_of(collections[p, n]).items()}

    @torch.no_grad()
    def see(self, make_images: MakeImages, requests: Requests, num_images: int, calls: Sequence[int]) -> Seen:
        """What the metrics need of some of the images, on the CPU: a part of a measurement, see `put_together`.

        Args:
            make_images, requests: As of `measure`.
            num_images: Of the whole.
            calls: Which calls are made; call c makes `extractor.batch_size` images from index c times that on.
        """
        parts: list[Seen] = []
        size = self.extractor.batch_size
        total = sum(min(size, num_images - call * size) for call in calls)
        with tqdm(total=total, unit=" images", desc="evaluate", disable=not self.progress) as bar:
            for call in calls:
                images, indices = self._make(make_images, requests, call, num_images)
                images = to_uint8(images)
                parts.append({prefix: suite.see(images, indices) for prefix, suite in self.suites.items()})
                bar.update(len(indices))
        return _joined(parts)

    def put_together(self, parts: Sequence[Seen], num_images: int, seed: int = 0) -> dict[str, float]:
        """What an evaluation of `num_images` images gives, from what was seen of all of them, in the order of their indices."""
        requests, indices = self.conditions.requests(num_images, seed), torch.arange(num_images)
        self._check([num_images], requests)
        values: dict[str, float] = {}
        for prefix, seen in _joined(parts).items():
            collection = self.suites[prefix].build(num_images)
            _update(collection, seen, indices, requests, num_images)
            values |= {prefix + name: value for name, value in values_of(collection).items()}
        return values

    def _check(self, rungs: Sequence[int], requests: Requests) -> None:
        """Before the first image: whether there are images enough, and what metrics ask of them."""
        for suite in self.suites.values():
            for n in rungs:
                check_num_images(suite.metrics, n, suite.extractor.num_features)
            for name in suite.metrics:
                if METRICS[name].needs_class_labels and requests.class_labels is None:
                    raise ValueError(f"{name} needs the class of each image, and they have none: leave {name} out.")
                if METRICS[name].needs_prompts:
                    prompts = requests.arguments.get("prompt", [])
                    if (different := len(set(prompts[: rungs[0]]))) < CANDIDATES:
                        raise ValueError(
                            f"{name} needs {CANDIDATES} different captions, and the images have {different}."
                        )

    def _make(self, make_images: MakeImages, requests: Requests, call: int, total: int) -> tuple[Tensor, Tensor]:
        """The images of one call and their indices, without those that only fill up the last call."""
        start = call * self.extractor.batch_size
        indices = torch.arange(start, min(start + self.extractor.batch_size, len(requests)))
        images = make_images(indices, requests[indices])
        return images[: total - start], indices[: total - start]


def _joined(parts: Sequence[Seen]) -> Seen:
    """What was seen of several batches, one after another, on the CPU."""
    return {
        prefix: {name: torch.cat([part[prefix][name].cpu() for part in parts]) for name in by_name}
        for prefix, by_name in parts[0].items()
    }


def _update(collection: Any, seen: Mapping[str, Tensor], indices: Tensor, requests: Requests, num_images: int) -> None:
    """Add what a suite saw of a batch to the metrics of the first `num_images` images."""
    keep = indices < num_images
    if keep.any():
        kept = {name: values[keep.to(values.device)] for name, values in seen.items()}
        asked = requests[indices[keep]]
        collection.update(
            **{"logits": None, **kept}, class_labels=asked.class_labels, prompts=asked.arguments.get("prompt"), indices=indices[keep]
        )  # fmt: skip


def _hand_over(on_images: OnImages, images: Tensor, requests: Requests, indices: Tensor, sizes: list[int]) -> None:
    """A batch to `on_images`, call by call, so that the parts do not depend on `batch_size`."""
    for part, rows in zip(images.cpu().split(sizes), indices.split(sizes)):
        on_images(part, requests[rows].class_labels, rows)
