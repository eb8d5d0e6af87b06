"""What generated images are compared with: the statistics of real ones, where they came from and who measured them.

A reference file is an `.npz` with `mu` and `sigma`, readable by pytorch-fid, to which `save_reference` adds provenance
and, if there are any, features and labels. Read are such files, those of pytorch-fid and ADM, folders and datasets.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..images import image_to_array
from .distances import FeatureStatistics, covariance_root


if TYPE_CHECKING:
    from datasets import Dataset

    from .extractors import FeatureExtractor

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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

    @property
    def hash(self) -> str:
        """First 16 digits of the SHA-256 of `mu` and `sigma` in float64: the same for the same statistics anywhere."""
        digest = hashlib.sha256(self.mu.double().numpy().tobytes())
        digest.update(self.sigma.double().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def root(self) -> Tensor:
        """`covariance_root(sigma)`, computed once: of 2,048 features it takes many seconds."""
        return covariance_root(self.sigma)

    @property
    def is_standard_inception(self) -> bool:
        """Whether the standard FID network measured it."""
        return bool(self.extractor and self.extractor["is_standard_inception"])

    def require_features(self, who: str, least: int) -> Tensor:
        """The features, at least so many rows, or an error that says how to get them."""
        if self.features is None:
            raise ValueError(
                f"{who} needs features, and {self.source} holds only mu and sigma: give its images as the reference "
                "(--reference FOLDER or DATASET:SPLIT), with `--metrics prdc --save-reference FILE` to keep the "
                "features; in Python load_reference(images, extractor, feature_rows=10_000)."
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
    samples: Iterable[tuple[Tensor, int | None]],
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
        source: an `.npz` file, a folder of images (classes are its sub-folders, if all images lie in some), a folder
            written by `Dataset.save_to_disk`, a `datasets.Dataset`, or `name:split` of one on the Hub. An `.npz`
            without provenance, as pytorch-fid and ADM write them, counts as made by the standard Inception network;
            its images (`arr_0`), if it has any, are measured as they are where another extractor is asked for.
        extractor: the network of the evaluation.
        feature_rows: how many rows of features to keep, for the kernel distance and precision to coverage.
        progress: show a progress bar while images are measured.
        resolution: resize and crop the images of folders and datasets to this side, as for training; take that of the
            generated images. None leaves them as they are.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None and path.suffix == ".npz":
        return _load_npz(path, extractor, feature_rows, progress)
    if path is not None and (path / "dataset_dict.json").exists():
        splits = ", ".join(json.loads((path / "dataset_dict.json").read_text())["splits"])
        raise ValueError(f"{path} holds several splits ({splits}): name the folder of one of them.")
    if path is not None and path.is_dir() and not (path / "dataset_info.json").exists():
        samples = _folder_samples(path, resolution)
        return compute_reference(samples, extractor, str(path), feature_rows, progress=progress, resolution=resolution)
    dataset: Any = source
    if path is not None:
        from datasets import load_dataset, load_from_disk

        name, _, split = str(source).rpartition(":")
        if not path.is_dir() and not name:
            raise ValueError(
                f"{source} is no .npz file and no folder; name a dataset with its split, as in `{source}:test`."
            )
        dataset = load_from_disk(str(path)) if path.is_dir() else load_dataset(name, split=split)
    title = str(path or dataset.info.dataset_name or "dataset in memory")
    samples = _dataset_samples(dataset, resolution)
    return compute_reference(samples, extractor, title, feature_rows, progress=progress, resolution=resolution)


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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, provenance=json.dumps(provenance), **present)


def _load_npz(path: Path, extractor: FeatureExtractor, feature_rows: int, progress: bool) -> Reference:
    """Statistics from a file if this extractor made them, else measured from the file's images."""
    if not path.exists():
        raise ValueError(f"There is no reference {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        from_images = "arr_0" in names and ("mu" not in names or not extractor.is_standard_inception)
        if not from_images and not {"mu", "sigma"} <= set(names):
            held = ", ".join(names) or "nothing"
            raise ValueError(f"it holds {held}; a reference needs mu and sigma, or images as arr_0")
        stored = {}
        if not from_images:
            with np.load(path, allow_pickle=False) as file:
                stored = {key: file[key] for key in file if key != "arr_0"}
        provenance = json.loads(str(stored.get("provenance", "{}")))
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a reference ({error}): make it again or fetch it again."
        ) from error
    measured = None
    if from_images or (feature_rows > 0 and "arr_0" in names):
        measured = compute_reference(_archive_samples(path), extractor, str(path), feature_rows, progress=progress)
        if from_images:
            return measured
    inception = extractor.identity() if extractor.is_standard_inception else None
    features = torch.from_numpy(stored["features"]) if "features" in stored else measured and measured.features
    reference = Reference(
        mu=torch.from_numpy(stored["mu"]).double(),
        sigma=torch.from_numpy(stored["sigma"]).double(),
        num_images=provenance.get("num_images"),
        features=features,
        labels=torch.from_numpy(stored["labels"]) if "labels" in stored else None,
        extractor=provenance.get("extractor", inception),
        source=f"{path} ({provenance['source']})" if provenance else str(path),
        resolution=provenance.get("resolution"),
        extractor_assumed=provenance.get("extractor_assumed", not provenance),
    )
    reference.check_extractor(extractor)
    return reference


def _archive_samples(path: Path) -> Iterator[tuple[Tensor, None]]:
    """The images of an `.npz` file's `arr_0`, one after another: `np.load` would read gigabytes at once."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            npy = np.lib.format
            old = npy.read_magic(member) == (1, 0)
            read_header = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
            shape, by_columns, dtype = read_header(member)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or by_columns:
                raise ValueError(f"arr_0 must be images, uint8 [N, H, W, 1 or 3], not {dtype} {list(shape)}")
            for _ in range(shape[0]):
                pixels = bytearray(member.read(math.prod(shape[1:])))
                yield torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(shape[1:])).permute(2, 0, 1), None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}.") from error


def _folder_samples(folder: Path, resolution: int | None) -> Iterator[tuple[Tensor, int | None]]:
    """Images in the order of their paths; the class is the number of the sub-folder, if all images lie in some."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    classes = sorted({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
    in_classes = all(file.parent != folder for file in files)
    for file in files:
        try:
            with Image.open(file) as image:
                pixels = torch.from_numpy(image_to_array(image, resolution, None))
        except OSError as error:
            raise ValueError(f"{file} cannot be read ({error}): replace it, or take it out of the folder.") from error
        yield pixels, classes.index(file.relative_to(folder).parts[0]) if in_classes else None


def _dataset_samples(dataset: Dataset, resolution: int | None) -> Iterator[tuple[Tensor, int | None]]:
    """The first image column of a dataset, and its first column of class labels if it has one."""
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    columns = dataset.features or {}
    image_column = next((name for name, feature in columns.items() if isinstance(feature, ImageFeature)), None)
    if image_column is None:
        raise ValueError(f"The dataset has no image column, only {', '.join(columns) or 'unknown ones'}.")
    label_column = next((name for name, feature in columns.items() if isinstance(feature, ClassLabel)), None)
    for row in dataset:
        image = torch.from_numpy(image_to_array(row[image_column], resolution, None))
        label = row[label_column] if label_column else None
        # Unlabelled splits on the Hub say -1.
        yield image, None if label is None or label < 0 else label
