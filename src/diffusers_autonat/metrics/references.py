"""What generated images are compared with: the statistics of real ones, where they came from and who measured them.

A reference file is an `.npz` with `mu` and `sigma`, readable by pytorch-fid, to which `save_reference` adds provenance
and, if there are any, features and labels. Read are such files, those of pytorch-fid and ADM, and images (`sources`).
"""

from __future__ import annotations

import itertools
import json
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..files import whole_file
from ..provenance import array_hash
from .extractors import FeatureExtractor
from .sources import Sample, archive_samples, image_samples, readable_as
from .statistics import FeatureStatistics, covariance_root, one_thread


if TYPE_CHECKING:
    from datasets import Dataset


STORED = ("mu", "sigma", "features", "labels", "provenance")  # in a reference file


@dataclass(frozen=True)
class Reference:
    """Mean and covariance of an image set's features, and where they come from.

    Args:
        mu: mean `[D]`, float64; `sigma`: covariance `[D, D]`, float64.
        num_images: how many images were measured, None where a file does not say.
        features: some rows of the features `[M, D]`, float32, evenly spaced, for kernel and neighbour statistics.
        labels: class of each measured image `[N]`.
        extractor: `FeatureExtractor.identity()` of the network that measured; None if unknown.
        source: path or name of the images or of the file.
        resolution: side in pixels that the images were resized and cropped to; None if they were left as they are.
        extractor_assumed: whether `extractor` is only what is usual for a file that does not say.
    """

    mu: Tensor
    sigma: Tensor
    num_images: int | None = None
    features: Tensor | None = None
    labels: Tensor | None = None
    extractor: dict[str, Any] | None = None
    source: str = "memory"
    resolution: int | None = None
    extractor_assumed: bool = False

    def __post_init__(self) -> None:
        width = self.mu.numel()
        finite = self.mu.isfinite().all() and self.sigma.isfinite().all()
        if self.mu.ndim != 1 or self.sigma.shape != (width, width) or not finite:
            shapes = f"mu {list(self.mu.shape)} and sigma {list(self.sigma.shape)}"
            raise ValueError(f"{self.source}: {shapes} must be finite, [D] and [D, D].")
        rows = self.features
        if rows is not None and (rows.ndim != 2 or rows.shape[1] != width or not rows.isfinite().all()):
            raise ValueError(f"{self.source}: features {list(rows.shape)} must be finite, [M, {width}].")
        labels, wanted = self.labels, "N" if self.num_images is None else self.num_images
        if labels is not None and (labels.ndim != 1 or wanted not in ("N", len(labels)) or (labels < 0).any()):
            raise ValueError(f"{self.source}: labels {list(labels.shape)} must be classes, [{wanted}].")

    @property
    def hash(self) -> str:
        """`array_hash` of `mu` and `sigma` in float64: the same for the same statistics anywhere."""
        return array_hash(self.mu.double().numpy(), self.sigma.double().numpy())

    @cached_property
    def root(self) -> Tensor:
        """`covariance_root(sigma)`, computed once: of 2,048 features it takes many seconds."""
        return covariance_root(self.sigma)

    @cached_property
    def principal(self) -> tuple[Tensor, Tensor]:
        """Variances `[D]`, smallest first, in the directions `[D, D]` of sigma's eigenvectors, its columns; computed once likewise."""
        with one_thread():
            variances, directions = torch.linalg.eigh(self.sigma.double())
        return variances, directions

    @property
    def is_standard_inception(self) -> bool:
        """Whether the standard FID network measured it."""
        return bool(self.extractor and self.extractor["is_standard_inception"])

    def describe(self) -> dict[str, Any]:
        """What a report says about the reference, as JSON data."""
        return {
            "source": self.source,
            "hash": self.hash,
            "num_images": self.num_images,
            "feature_rows": 0 if self.features is None else len(self.features),
            "resolution": self.resolution,
            "extractor": "assumed" if self.extractor_assumed else "recorded",
        }

    def require_features(self, who: str, least: int) -> Tensor:
        """The features, at least so many rows, or an error that says how to get them."""
        if self.features is None:
            raise ValueError(
                f"{who} needs features, and {self.source} holds only mu and sigma: give its images as the reference "
                "(--reference FOLDER or DATASET:SPLIT), which `diffusers-autonat reference SOURCE --feature-rows 10000 "
                "--output FILE` keeps; in Python load_reference(images, extractor, feature_rows=10_000)."
            )
        if len(self.features) < least:
            raise ValueError(
                f"{who} needs at least {least} features, and {self.source} holds {len(self.features)}: give a larger "
                "reference."
            )
        return self.features

    def check_extractor(self, extractor: FeatureExtractor) -> None:
        """Raise a ValueError unless this extractor measures what the reference was measured with."""
        if len(self.mu) != extractor.num_features:
            raise ValueError(
                f"{self.source} has {len(self.mu)} features, {extractor.name} gives {extractor.num_features}: "
                "make the reference again with this extractor, or evaluate with the one it was made with."
            )
        made_by, asked = self.extractor, extractor.identity()
        if made_by is None:
            raise ValueError(
                f"{self.source} does not say who made it, so it counts as made by the standard Inception network, "
                f"not by {extractor.name}: make the reference again with this extractor."
            )
        for key in ("weights_hash", "preprocessing"):
            if made_by[key] != asked[key]:
                raise ValueError(
                    f"{self.source} was made by {made_by['name']} ({key} {made_by[key]}), not by {asked['name']} "
                    f"({key} {asked[key]}): make the reference again with this extractor."
                )


def compute_reference(
    samples: Iterable[Sample],
    extractor: FeatureExtractor,
    source: str = "memory",
    feature_rows: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    resolution: int | None = None,
) -> Reference:
    """Measure images in this process alone, in memory that does not grow with their number, labels aside.

    Args:
        samples: pairs of an image, uint8 `[C, H, W]`, and its class or None.
        extractor: the network.
        source: what to call the images in reports.
        feature_rows: how many rows of features to keep, about evenly spaced over the images.
        batch_size: images handed over at once; the result does not depend on it.
        progress: show a progress bar.
        resolution: what the samples have been resized and cropped to; None where they were left as they are, which is
            warned about unless all are squares of one size, as generated images are.
    """
    statistics = FeatureStatistics(extractor.num_features, sync_on_compute=False)
    kept: list[Tensor] = []  # features of every stride-th image
    stride = 1
    labels: list[int | None] = []
    sizes: set[tuple[int, int]] = set()
    shown = tqdm(samples, desc=f"reference {source}", unit=" images", disable=not progress)
    for shape, same_size in itertools.groupby(shown, key=lambda sample: sample[0].shape):
        sizes.add((shape[2], shape[1]))
        while batch := list(itertools.islice(same_size, batch_size)):
            indices = torch.arange(len(labels), len(labels) + len(batch))
            features, _ = extractor(torch.stack([image for image, _ in batch]), indices)
            statistics.update(features)
            if feature_rows:
                kept.append(features[(indices % stride == 0).to(features.device)].cpu())
                while sum(map(len, kept)) > 2 * feature_rows:
                    kept, stride = [torch.cat(kept)[::2].clone()], 2 * stride
            labels += [label for _, label in batch]
    if len(labels) < 2:
        raise ValueError(f"{source} holds {'one image' if labels else 'no images'}: a reference needs at least 2.")
    odd = sorted(size for size in sizes if size[0] != size[1] or len(sizes) > 1)
    if odd and resolution is None:
        warnings.warn(
            f"{source} holds images of {odd[0][0]} x {odd[0][1]} pixels, measured as they are: generated images are "
            "squares of one size, and the distance to others is biased. Give the resolution (--resolution) to crop to.",
            stacklevel=2,
        )
    mu, sigma = statistics.compute()
    num_kept = sum(map(len, kept))
    rows = torch.linspace(0, num_kept - 1, min(feature_rows, num_kept)).round().long()
    return Reference(
        mu=mu.cpu(),
        sigma=sigma.cpu(),
        num_images=len(labels),
        features=torch.cat(kept)[rows] if feature_rows else None,
        labels=None if None in labels else torch.tensor(labels),
        extractor=extractor.identity(),
        source=source,
        resolution=resolution,
    )


def load_reference(
    source: str | Path | Dataset,
    extractor: FeatureExtractor,
    feature_rows: int = 0,
    progress: bool = False,
    resolution: int | None = None,
) -> Reference:
    """Load a reference, or measure one, and check that it fits the extractor.

    Args:
        source: an `.npz` file, a folder of images (classes are its sub-folders, if all images lie in some), a folder of
            IDX files (the test split), `FOLDER:SPLIT`, a folder written by `Dataset.save_to_disk`, a
            `datasets.Dataset`, or `name:split` of one on the Hub. An `.npz` without provenance, as pytorch-fid and ADM
            write them, counts as made by the standard Inception network; its images (`arr_0`), if it has any, are
            measured as they are where another extractor is asked for.
        extractor: the network of the evaluation.
        feature_rows: how many rows of features to keep, for the kernel distance and precision to coverage.
        progress: show a progress bar while images are measured.
        resolution: resize and crop the images of folders and datasets to this side, as for training; take that of the
            generated images. None leaves them as they are.
    """
    if isinstance(source, (str, Path)) and Path(source).suffix == ".npz":
        return _load_npz(Path(source), extractor, feature_rows, progress)
    name, samples = image_samples(source, resolution)
    return compute_reference(samples, extractor, name, feature_rows, progress=progress, resolution=resolution)


def save_reference(reference: Reference, path: str | Path) -> None:
    """Write a reference to an `.npz` that also pytorch-fid reads.

    Args:
        reference: its `mu` and `sigma`, features and labels if any, and as JSON what else is known of it.
        path: where to, ending in `.npz`.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"A reference is saved to an .npz file, not to {path}.")
    known = ("extractor", "extractor_assumed", "num_images", "source", "resolution")
    provenance = {key: getattr(reference, key) for key in known}
    arrays = {key: getattr(reference, key) for key in ("mu", "sigma", "features", "labels")}
    present = {key: value.numpy() for key, value in arrays.items() if value is not None}
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, provenance=json.dumps(provenance), **present)


def _check_stored(stored: dict[str, np.ndarray], provenance: Any) -> None:
    """A ValueError where arrays or provenance of a file are of types that nobody wrote."""
    for key, kinds in (("mu", "fiu"), ("sigma", "fiu"), ("features", "fiu"), ("labels", "iu")):
        if key in stored and stored[key].dtype.kind not in kinds:
            raise ValueError(f"{key} is of type {stored[key].dtype}")
    if not isinstance(provenance, dict):
        raise ValueError(f"its provenance is {provenance!r:.60}")
    types = {"num_images": int, "resolution": int, "source": str, "extractor": dict, "extractor_assumed": bool}
    for key, kind in types.items():
        if not isinstance(provenance.get(key), (kind, type(None))):
            raise ValueError(f"its {key} is {provenance[key]!r:.60}")
    known = provenance.get("extractor")
    if known is not None and not {"name", "weights_hash", "preprocessing", "is_standard_inception"} <= known.keys():
        raise ValueError(f"its extractor is {known!r:.60}")


def _load_npz(path: Path, extractor: FeatureExtractor, feature_rows: int, progress: bool) -> Reference:
    """Statistics from a file if this extractor made them, else measured from the file's images."""
    if not path.is_file():
        raise ValueError(f"There is no reference {path}." if not path.exists() else f"{path} is no file.")
    with readable_as(path, "a reference"):
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        from_images = "arr_0" in names and ("mu" not in names or not extractor.is_standard_inception)
        if not from_images and not {"mu", "sigma"} <= set(names):
            held = ", ".join(names) or "nothing"
            raise ValueError(f"it holds {held}; a reference needs mu and sigma, or images as arr_0")
        stored = {}
        if not from_images:
            with np.load(path, allow_pickle=False) as file:
                stored = {key: file[key] for key in file if key in STORED}
        provenance = json.loads(str(stored.get("provenance", "{}")))
        _check_stored(stored, provenance)
    measured = None
    if from_images or (feature_rows > 0 and "arr_0" in names):
        measured = compute_reference(archive_samples(path), extractor, str(path), feature_rows, progress=progress)
        if from_images:
            return measured
    inception = extractor.identity() if extractor.is_standard_inception else None
    features = (
        torch.from_numpy(stored["features"].astype(np.float32))
        if "features" in stored
        else measured and measured.features
    )
    reference = Reference(
        mu=torch.from_numpy(stored["mu"].astype(np.float64)),
        sigma=torch.from_numpy(stored["sigma"].astype(np.float64)),
        num_images=provenance.get("num_images"),
        features=features,
        labels=torch.from_numpy(stored["labels"].astype(np.int64)) if "labels" in stored else None,
        extractor=provenance.get("extractor", inception),
        source=f"{path} ({provenance['source']})" if provenance.get("source") else str(path),
        resolution=provenance.get("resolution"),
        extractor_assumed=provenance.get("extractor_assumed", not provenance),
    )
    reference.check_extractor(extractor)
    return reference
