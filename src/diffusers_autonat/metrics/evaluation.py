"""Evaluate a pipeline: images in, numbers out, the same numbers on every machine layout.

    evaluator = Evaluator(pipeline, extractor, reference)
    evaluator(1000, seed=0, num_inference_steps=8)   # {"frechet_distance": ..., "class_consistency": ...}

What makes a number reproducible:

- Image i draws its noise from a stream of its own that depends on the seed and on i alone, and its label on nothing
  else either, so the first n of N images are the n images of a shorter run.
- Matrix products round differently in another batch shape, which can turn a token or a grey level. So images are
  always made in calls of `extractor.batch_size`, image i at place i modulo that; the last call is filled up and its
  excess dropped. `batch_size`, the number of processes and an interruption only decide which calls are made where and
  when. (On a CPU the number of threads rounds differently too; keep it.)
- The statistics do not depend on the order of the images (`distances`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from .extractors import FeatureExtractor, to_uint8
from .scores import balanced_labels, build_metrics, check_num_images, reference_labels, uniform_labels


if TYPE_CHECKING:
    from ..strategies import GenerationStrategy
    from .checkpoints import EvaluationCheckpoint
    from .references import Reference

LABEL_POLICIES = ("balanced", "uniform", "reference")
# Images `[B, C, H, W]` of the labels `[B]`, given the index of each in the whole set.
MakeImages = Callable[[Tensor, Tensor], Tensor]


def image_generators(indices: Tensor, seed: int, device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One random stream for each image index: distinct within a seed, and unrelated between seeds.

    torch's CPU generator uses 32 bits of its seed; counting up from a scrambled start uses each at most once.

    Args:
        seed: any whole number that is not negative.
        device: where the streams live. Streams on a GPU need no copies, but give other noise than those on the CPU.
    """
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return [torch.Generator(device).manual_seed((start + index) % 2**32) for index in indices.tolist()]


def process_rank() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) where torch.distributed is not in use."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def statistics_device(device: torch.device) -> torch.device:
    """Where the statistics of an extractor on this device are kept: there, or on the CPU if it has no float64 (Apple)."""
    return torch.device("cpu") if device.type == "mps" else device


class Evaluator:
    """Generates images with a pipeline and measures them.

    Args:
        pipeline: anything called as `pipeline(class_labels, num_inference_steps=, strategy=, guidance_scale=,
            generator=[one for each image], output_type="pt").images`, with `transformer.config.num_classes`. Its own
            progress bars are turned off.
        extractor: what makes features and logits, on the device where statistics are to be kept.
        reference: what distances compare with; None if no metric needs one.
        metrics: some of `fid`, `kid`, `is`, `prdc` and `class` (`build_metrics`). Results are named after the network:
            `fid` gives `frechet_distance` unless the extractor is the standard Inception network.
        label_policy: `balanced`, `uniform` or `reference`: in the proportions of the reference's labels.
        batch_size: images generated before they are measured, rounded up to whole calls; changes memory, not results.
        progress: show a progress bar with images/s and the time left.

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
    ):
        if label_policy not in LABEL_POLICIES:
            raise ValueError(f"label_policy must be one of {', '.join(LABEL_POLICIES)}, got {label_policy!r}.")
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1.")
        self.num_classes = int(pipeline.transformer.config.num_classes)
        if "class" in metrics and extractor.num_classes not in (None, self.num_classes):
            raise ValueError(
                f"class asks {extractor.name} for its opinion, but it knows {extractor.num_classes} classes and the "
                f"pipeline has {self.num_classes}: take a classifier of the same classes, or leave class out."
            )
        if label_policy == "reference" and reference is None:
            raise ValueError("label_policy 'reference' takes the labels of a reference: give one.")
        pipeline.set_progress_bar_config(disable=True)
        build_metrics(metrics, extractor, 2, reference)  # says now what cannot work
        self.pipeline, self.extractor, self.reference = pipeline, extractor, reference
        self.metrics, self.label_policy = tuple(metrics), label_policy
        self.batch_size, self.progress = batch_size, progress
        self.resumed_images = 0  # of the latest run

    def labels(self, num_images: int, seed: int = 0) -> Tensor:
        """Class ids `[N]` that images are asked for; the first n do not depend on N."""
        if self.label_policy == "balanced":
            return balanced_labels(num_images, self.num_classes)
        if self.label_policy == "uniform":
            return uniform_labels(num_images, self.num_classes, seed)
        assert self.reference is not None
        labels = reference_labels(num_images, self.reference)
        if labels.max() >= self.num_classes:
            raise ValueError(
                f"{self.reference.source} holds class {int(labels.max())}, "
                f"the pipeline's last is {self.num_classes - 1}."
            )
        return labels

    def __call__(
        self,
        num_images: int,
        seed: int = 0,
        strategy: GenerationStrategy | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        **options: Any,
    ) -> dict[str, float]:
        """The metrics of `num_images` generated images; on every process the same.

        Args:
            num_images: N, over all processes together.
            seed: of noise and labels; the same seed gives the same images.
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
        strategy: GenerationStrategy | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        **options: Any,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """`(n, values)` for each n of `num_images` as images accumulate: what a run of n images alone would give.

        Stop iterating to stop generating. Arguments as above.
        """
        if not num_images:
            raise ValueError("num_images is empty: name how many images to evaluate.")
        make_images, labels = self.generation(max(num_images), seed, strategy, num_inference_steps, guidance_scale)
        return self.measure(make_images, labels, num_images, **options)

    @property
    def noise_device(self) -> str:
        """Where noise is drawn: `cuda` for a pipeline there, which then need not wait for copies, else `cpu`."""
        return "cuda" if torch.device(self.pipeline.device).type == "cuda" else "cpu"

    def generation(
        self,
        num_images: int,
        seed: int = 0,
        strategy: GenerationStrategy | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[MakeImages, Tensor]:
        """The first two arguments of `measure` for generated images."""
        device = self.pipeline.device if self.noise_device == "cuda" else "cpu"
        image_generators(torch.arange(1), seed)  # refuses a bad seed now

        def generate(indices: Tensor, labels: Tensor) -> Tensor:
            return self.pipeline(
                labels.tolist(),
                num_inference_steps=num_inference_steps,
                strategy=strategy,
                guidance_scale=guidance_scale,
                generator=image_generators(indices, seed, device),
                output_type="pt",
            ).images

        calls = math.ceil(num_images / self.extractor.batch_size)
        return generate, self.labels(calls * self.extractor.batch_size, seed)

    @torch.no_grad()
    def measure(
        self,
        make_images: MakeImages,
        labels: Tensor,
        num_images: Sequence[int],
        description: str = "evaluate",
        on_images: Callable[[Tensor, Tensor, Tensor], None] | None = None,
        checkpoint: EvaluationCheckpoint | None = None,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """As `rungs`, for images from anywhere.

        Args:
            make_images: images `[B, C, H, W]`, in [0, 1] or uint8, given their indices and labels `[B]`.
            labels: one for each index. Indices up to a multiple of `extractor.batch_size` are asked for where there
                are labels for them, so that every call has the same shape.
            num_images: the rungs, rising.
            description: what the progress bar says.
            on_images: given each call's images (uint8, on the CPU), labels and indices, e.g. to save them. Runs in a
                thread of its own, one call at a time and never for more than one batch behind.
            checkpoint: where to keep what is done, and continue from.
        """
        rungs = list(num_images)
        if not rungs or rungs[0] < 2 or rungs != sorted(set(rungs)):
            raise ValueError(f"num_images = {rungs} must be whole numbers of at least 2 that rise.")
        for n in rungs:
            check_num_images(self.metrics, n, self.extractor.num_features)
        call_size, (rank, world) = self.extractor.batch_size, process_rank()
        device = statistics_device(next(self.extractor.parameters()).device)
        collections = {n: build_metrics(self.metrics, self.extractor, n, self.reference).to(device) for n in rungs}
        done = checkpoint.load(collections, device) if checkpoint else set()
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
                        pieces.append(self._make(make_images, labels, call, rungs[-1]))
                        # The other processes are as far as this one.
                        bar.update(min(len(pieces[-1][1]) * world, rungs[-1] - bar.n))
                    images, indices = (torch.cat(parts) for parts in zip(*pieces))
                    images = to_uint8(images)  # looks at the values, so a GPU is waited for once a batch
                    if on_images is not None:
                        if written:
                            written.result()  # raises what was raised there
                        sizes = [len(part) for _, part in pieces]
                        written = writer.submit(_hand_over, on_images, images, labels, indices, sizes)
                    self._update(collections, images, indices, labels)
                    own += batch
                    if checkpoint and checkpoint.is_due:
                        if written:
                            written.result()  # images of which the checkpoint says that they are done
                        checkpoint.save(collections, own)
                if written:
                    written.result()
                yield n, _compute(collections[n])

    def _make(self, make_images: MakeImages, labels: Tensor, call: int, total: int) -> tuple[Tensor, Tensor]:
        """The images of one call and their indices, without those that only fill up the last call."""
        start = call * self.extractor.batch_size
        indices = torch.arange(start, min(start + self.extractor.batch_size, len(labels)))
        images = make_images(indices, labels[indices])
        return images[: total - start], indices[: total - start]

    def _update(self, collections: dict[int, Any], images: Tensor, indices: Tensor, labels: Tensor) -> None:
        """Add a batch to every rung it belongs to."""
        features, logits = self.extractor(images, indices)
        for n, collection in collections.items():
            keep = indices < n
            if keep.any():
                kept = keep.to(features.device)
                collection.update(
                    features=features[kept],
                    logits=None if logits is None else logits[kept],
                    labels=labels[indices[keep]],
                    indices=indices[keep],
                )


def _hand_over(
    on_images: Callable[[Tensor, Tensor, Tensor], None],
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    sizes: list[int],
) -> None:
    """A batch to `on_images`, call by call, so that the parts do not depend on `batch_size`."""
    for part, rows in zip(images.cpu().split(sizes), indices.split(sizes)):
        on_images(part, labels[rows], rows)


def _compute(collection: Any) -> dict[str, float]:
    """The values of one rung as plain numbers."""
    with warnings.catch_warnings():
        # torchmetrics takes what came from a checkpoint, or from other processes only, for nothing.
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        warnings.filterwarnings("ignore", message="The covariance of")  # said before the first image
        values = collection.compute()
    return {name: value.item() for name, value in values.items()}
