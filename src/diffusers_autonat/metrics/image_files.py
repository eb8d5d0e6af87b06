"""Save the evaluated images, as PNG files or in the file that OpenAI's evaluator of ADM reads."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..files import naming, whole_file


START_OVER = "delete what there is of it and of the evaluation's state, and start over."


class ImageFolder:
    """PNG files named after the index of the image: `000000.png` and so on."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is something that would be mixed or overwritten."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def __call__(self, images: Tensor, class_labels: Tensor | None, indices: Tensor) -> None:
        """Save images `[B, 1 or 3, H, W]` (uint8)."""
        self.path.mkdir(parents=True, exist_ok=True)
        for image, index in zip(images.numpy(), indices.tolist()):
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            file = self.path / f"{index:06d}.png"
            with naming(file):
                Image.fromarray(pixels).save(file, compress_level=1)

    def is_complete(self, num_images: int) -> bool:
        """Whether all images are there."""
        return all((self.path / f"{index:06d}.png").exists() for index in range(num_images))

    def finish(self, num_images: int) -> None:
        """Once all processes are done; a ValueError where images have gone that an earlier run had saved."""
        if not self.is_complete(num_images):
            raise ValueError(f"{self.path} does not hold all {num_images} images any more: {START_OVER}")


class ImageArchive:
    """An `.npz` with all images as `arr_0` (uint8 `[N, H, W, 3]`), their classes as `arr_1` (int64 `[N]`, -1 for none).

    Until `finish` the images lie in a folder beside it, one file for each call, so memory does not grow with N and any
    number of processes can write.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.parts = self.path.with_name(self.path.name + ".parts")

    def exists(self) -> bool:
        """Whether there is something that would be mixed or overwritten."""
        return self.path.exists() or self.parts.exists()

    def __call__(self, images: Tensor, class_labels: Tensor | None, indices: Tensor) -> None:
        """Save images `[B, 1 or 3, H, W]` (uint8), classes and indices `[B]`; grey becomes three equal channels."""
        self.parts.mkdir(parents=True, exist_ok=True)
        pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()
        labels = np.full(len(images), -1) if class_labels is None else class_labels.numpy()
        file = self.parts / f"{int(indices[0]):09d}.npz"
        with naming(file):
            np.savez(file, images=pixels.numpy(), labels=labels)

    def is_complete(self, num_images: int) -> bool:
        """Whether the archive was finished."""
        return self.path.exists()

    def finish(self, num_images: int) -> None:
        """Put the parts together, one after another, once all processes are done; errors as for a folder."""
        if self.path.exists():  # killed while the parts were being deleted
            return shutil.rmtree(self.parts, ignore_errors=True)
        files = sorted(self.parts.glob("*.npz"))
        labels = np.concatenate([np.empty(0, np.int64), *(_member(file, "labels") for file in files)])
        if len(labels) != num_images:
            raise ValueError(f"{self.parts} holds {len(labels)} of {num_images} images: {START_OVER}")
        shape = (len(labels), *_member(files[0], "images").shape[1:])
        with whole_file(self.path) as partial, zipfile.ZipFile(partial, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for file in files:
                    member.write(_member(file, "images").tobytes())
            with archive.open("arr_1.npy", "w") as member:
                np.lib.format.write_array(member, labels)
        shutil.rmtree(self.parts)


def image_writer(path: str | None) -> ImageFolder | ImageArchive | None:
    """What saves images at that place, an archive if it ends in `.npz`; None where they are not to be saved."""
    if path is None:
        return None
    return ImageArchive(path) if path.endswith(".npz") else ImageFolder(path)


def _member(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    except Exception as error:  # what a damaged file makes the reader raise is anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged ({reason}): {START_OVER}") from error
