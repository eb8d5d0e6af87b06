"""Images from anywhere as arrays: the one reader for training, tokens, reconstructions, references and given images."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError


# What of `image_to_array` decides on the pixels. It stands in token sets: another text when pixels change.
TRANSFORM = "upright, on white, 8 bit; shorter side by Lanczos, centre"
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
MODES_WITH_ALPHA = ("LA", "La", "PA", "P", "RGBA", "RGBa")  # P: its palette may have some
LONGEST = 4  # times the shorter side: beyond that, no pixel of the centre is touched by what is resized
NAMED = 10  # of the images that cannot be read so many are named


class UnreadableImage(ValueError):
    """An image that cannot be read; the line names it and says why."""


def image_to_array(
    source: Any, resolution: int | None = None, num_channels: int | None = None, name: str | None = None
) -> np.ndarray:
    """
    An image as uint8 `[C, H, W]`: turned upright as its EXIF orientation says, transparency laid on white, and the
    first frame where there are several.

    Levels that are not 8 bit are scaled to it. 16-bit images are so by their type; 32-bit integers and floats do not
    say what white is, so the smallest of 255 and 65,535 (integers) or 1 and 255 (floats) that no level exceeds is.

    Args:
        source: A Pillow image, a path, the bytes of a file, `{"bytes": ..., "path": ...}` as `datasets` keeps images,
            or an array `[H, W]` or `[H, W, 1 to 4]` (grey, with alpha, RGB, RGBA).
        resolution: Resize the shorter side to this and crop the centre; None leaves the size as it is.
        num_channels: 1 or 3; None keeps grey images grey and makes all others RGB.
        name: What errors call the image; by default its path.

    Raises:
        UnreadableImage: It is no regular file, damaged, of an unknown format, so large that it may be a decompression
            bomb (`PIL.Image.MAX_IMAGE_PIXELS`), or its levels have no meaning.
        ValueError: `resolution` or `num_channels` is wrong.
    """
    if num_channels not in (1, 3, None):
        raise ValueError(f"num_channels = {num_channels!r} must be 1 or 3, or None to keep grey images grey.")
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution = {resolution} must be at least 1, or None to leave the size as it is.")
    if isinstance(source, dict):
        name = name or source.get("path")
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if name is None:
        name = str(source) if isinstance(source, (str, os.PathLike)) else "the image"
    try:
        with ExitStack() as opened:
            image = source if isinstance(source, Image.Image) else opened.enter_context(_open(source))
            return _to_array(image, resolution, num_channels)
    except Exception as error:  # what damaged files make the decoders raise is anything
        reason = "of no known image format" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = " ".join(reason.split()) or type(error).__name__
        raise UnreadableImage(f"{name} cannot be read ({reason})") from error


class UnreadableImages:
    """
    What could not be read of a set of images: it is left out, counted, and the first of it named.

    Args:
        source: What to call the set.
    """

    def __init__(self, source: str, num_read: int = 0, num_unreadable: int = 0, names: list[str] | None = None):
        self.source, self.num_read, self.num_unreadable, self.names = source, num_read, num_unreadable, names or []

    def add(self, error: UnreadableImage) -> None:
        self.num_unreadable += 1
        if len(self.names) < NAMED:
            self.names.append(str(error))

    def check(self) -> None:
        """Raise a ValueError where half or more could not be read: then it is not the images that are wrong."""
        if self.num_unreadable and self.num_unreadable >= self.num_read:
            raise ValueError(
                f"{self.num_unreadable} of {self.num_read + self.num_unreadable} images of {self.source} cannot be "
                f"read, e.g. {self.names[0]}: replace them, or take them out."
            )

    def warn(self) -> None:
        """Say what was left out, in one line."""
        if self.num_unreadable:
            more = ", ..." if self.num_unreadable > len(self.names) else ""
            warnings.warn(
                f"{self.num_unreadable} of {self.num_read + self.num_unreadable} images of {self.source} could not be "
                f"read and are left out: {', '.join(self.names)}{more}",
                stacklevel=2,
            )

    def finish(self) -> None:
        """`check`, and if it passes `warn`."""
        self.check()
        self.warn()


def _open(source: Any) -> Image.Image:
    """An image that was not one yet; of files only the head has been read."""
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        image = Image.open(io.BytesIO(source))
    elif isinstance(source, (str, os.PathLike)):
        if not Path(source).is_file():  # opening a pipe would wait for ever
            raise OSError("no regular file" if Path(source).exists() else "no such file")
        image = Image.open(source)
    else:
        raise TypeError(f"a {type(source).__name__} is no image, path or array")
    if image.format == "EPS":  # a program, which Pillow would hand to Ghostscript
        image.close()
        raise ValueError("an EPS file is a program, not pixels")
    return image


def _from_array(values: np.ndarray) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (2, 3, 4)):
        raise ValueError(f"an array of shape {list(values.shape)} is no image: [H, W] or [H, W, 1 to 4]")
    return Image.fromarray(_eight_bit(values))


def _to_array(image: Image.Image, resolution: int | None, num_channels: int | None) -> np.ndarray:
    if min(image.size) < 1:
        raise ValueError("it has no pixels")
    if image.mode == "LAB":  # Pillow would take its numbers for those of RGB
        raise ValueError("its colours are CIELAB: save it as RGB")
    image = _upright(image)
    is_grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values, clear = np.asarray(image), image.info.get("transparency")
        # Before Pillow 11, 16-bit PNG files are of mode I.
        levels = _eight_bit(values.astype(np.uint16) if image.format == "PNG" and image.mode == "I" else values)
        image = Image.fromarray(levels if clear is None else np.where(values == clear, np.uint8(255), levels))
    elif image.mode in MODES_WITH_ALPHA or "transparency" in image.info:
        # Transparent pixels carry arbitrary colours: show them as a viewer on a white page would.
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")  # from where there is a way to grey, as there is not from all modes
    image = image.convert({1: "L", 3: "RGB", None: "L" if is_grey else "RGB"}[num_channels])
    if resolution is not None:
        image = _centre(image, resolution)
    array = np.array(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; an EXIF block that cannot be read says nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """Levels of any type as uint8, see `image_to_array`."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"levels of type {values.dtype} are no grey levels")
    low, high = values.min(initial=0), values.max(initial=0)
    tops = (1, 255) if values.dtype.kind == "f" else (65_535,) if values.dtype == np.uint16 else (255, 65_535)
    if not (low >= 0 and high <= tops[-1]):
        raise ValueError(f"its levels go from {low:g} to {high:g}: scale them to 0 to {tops[-1]}")
    white = next(top for top in tops if high <= top)
    return np.rint(values.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)


def _centre(image: Image.Image, resolution: int) -> Image.Image:
    """The shorter side resized to `resolution`, and the centre cropped."""
    shorter = min(image.size)
    # What is far out is cropped before: of a line of pixels, resizing would make gigabytes.
    image = _crop(image, *(min(side, LONGEST * shorter) for side in image.size))
    if shorter != resolution:
        scale = resolution / shorter
        size = (max(resolution, round(image.width * scale)), max(resolution, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _crop(image, resolution, resolution)


def _crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
