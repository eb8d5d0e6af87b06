"""One extractor's part in an evaluation: what it sees of images, in which metrics, against which reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torchmetrics import MetricCollection

from .extractors import FeatureExtractor
from .references import Reference
from .registry import METRICS, build_metrics


@dataclass(frozen=True)
class MetricSuite:
    """Metrics of images by one extractor.

    Args:
        extractor: what makes features and logits, on the device where statistics are to be kept.
        reference: what distances compare with; None if no metric needs one.
        metrics: some of `registry.METRICS`.
    """

    extractor: FeatureExtractor
    reference: Reference | None
    metrics: tuple[str, ...]

    @classmethod
    def of_distance(
        cls,
        extractor: FeatureExtractor,
        reference: Reference,
        num_classes: int | None,
        metric: str = "fid",
        error: bool = True,
    ) -> MetricSuite:
        """A distance, its standard `error`, and recognition where the extractor knows these classes (None: there are none)."""
        metrics = [metric]
        if knows_classes(extractor, num_classes):
            metrics.append("class")
        if error:
            metrics.append(f"{metric}_error")
        return cls(extractor, reference, tuple(metrics))

    @property
    def needs_logits(self) -> bool:
        return any(METRICS[name].needs_classifier for name in self.metrics)

    def build(self, num_images: int) -> MetricCollection:
        """The metrics of so many images, see `build_metrics`."""
        return build_metrics(self.metrics, self.extractor, num_images, self.reference)

    def see(self, images: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """`features` `[B, D]`, and `logits` `[B, K]` where metrics need them, of images `[B, C, H, W]` with these indices `[B]`.

        Raises:
            ValueError: they are not finite.
        """
        features, logits = self.extractor(images, indices)
        if not (features.isfinite().all() and (logits is None or logits.isfinite().all())):
            raise ValueError(
                f"{self.extractor.name} makes NaN or infinite features of images: its weights are damaged."
            )
        seen = {"features": features}
        if self.needs_logits and logits is not None:
            seen["logits"] = logits
        return seen


def check_second(first: FeatureExtractor, second: FeatureExtractor) -> None:
    """A ValueError if a second extractor is the first."""
    if second.weights_hash == first.weights_hash:
        raise ValueError(
            f"the second extractor {second.name} has the weights of the first, whose opinion it would repeat: name "
            "one that was trained differently"
        )


def load_second_reference(
    own: str | None, of_first: str, load: Callable[[str], Reference], option: str = "--second-reference"
) -> Reference:
    """What `load` makes of a second extractor's own source (its `option`), or of the first's, whose `.npz` does not do.

    Raises:
        ValueError: as of `load`, with the remedy where no source of its own was given.
    """
    try:
        return load(own or of_first)
    except ValueError as error:
        if own:
            raise
        raise ValueError(f"{error} Or give the second extractor a reference of its own: {option}") from error


def knows_classes(extractor: FeatureExtractor, num_classes: int | None) -> bool:
    """Whether an extractor says of which of so many classes an image is."""
    return num_classes is not None and bool(extractor.id2label) and extractor.num_classes == num_classes


def values_of(collection: MetricCollection) -> dict[str, float]:
    """What metrics give, as plain numbers."""
    with warnings.catch_warnings():
        # torchmetrics takes what came from a checkpoint, or from other processes only, for nothing.
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        warnings.filterwarnings("ignore", message="The covariance of")  # said before the first image
        values = collection.compute()
    return {name: value.item() for name, value in values.items()}
