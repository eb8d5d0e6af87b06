"""Images of any mode, size and depth, whole and damaged: a lawful array, or one line that names the file."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from diffusers_autonat.images import GREY_MODES, UnreadableImage, image_to_array


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "La", "RGBa"]
FORMATS = ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "DDS", "PCX", "SGI"]
SIDES = st.integers(1, 40)
WISHES = {"resolution": st.none() | st.integers(1, 40), "num_channels": st.sampled_from([None, 1, 3])}


@st.composite
def images(draw, modes=tuple(MODES)):
    """An image of random levels."""
    mode, width, height = draw(st.sampled_from(modes)), draw(SIDES), draw(SIDES)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if mode in ("I", "F", "I;16"):
        top = draw(st.sampled_from([1, 255, 65_535]))
        kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
        return Image.fromarray((random.random((height, width)) * top).astype(kind))
    image = Image.new(mode, (width, height))
    content = random.integers(0, 256, len(image.tobytes()), dtype=np.uint8).tobytes()
    image.frombytes(content)
    return image


def read(source, resolution, num_channels, name=None):
    """The array, checked; None where it is refused in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file
        try:
            array = image_to_array(source, resolution, num_channels, name)
        except UnreadableImage as error:
            assert "\n" not in str(error) and " cannot be read (" in str(error) and (name or "") in str(error)
            return None
    assert array.dtype == np.uint8 and array.ndim == 3 and min(array.shape) > 0
    assert array.shape[0] in ((1, 3) if num_channels is None else (num_channels,))
    assert resolution is None or array.shape[1:] == (resolution, resolution)
    return array


@given(image=images(), **WISHES)
def test_every_image_gives_what_was_asked(image, resolution, num_channels):
    array = read(image, resolution, num_channels)
    if image.mode == "LAB" or (image.mode == "F" and np.asarray(image).max() > 255):
        assert array is None
        return
    assert (num_channels or (1 if image.mode in (*GREY_MODES, "I;16") else 3)) == array.shape[0]
    if resolution is None:
        assert array.shape[1:] == image.size[::-1]


@given(
    image=images(modes=("1", "L", "LA", "P", "RGB", "RGBA", "I;16")), format=st.sampled_from(["PNG", "TIFF"]), **WISHES
)
def test_a_file_is_read_as_the_image_that_was_saved(image, format, resolution, num_channels):
    file = io.BytesIO()
    image.save(file, format)
    assert np.array_equal(read(file.getvalue(), resolution, num_channels), read(image, resolution, num_channels))


@given(
    values=npst.arrays(
        npst.boolean_dtypes() | npst.integer_dtypes() | npst.unsigned_integer_dtypes() | npst.floating_dtypes()
        | npst.complex_number_dtypes() | npst.unicode_string_dtypes(max_len=2),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    ),
    **WISHES,
)  # fmt: skip
def test_every_array_is_an_image_or_refused(values, resolution, num_channels):
    array = read(values, resolution, num_channels)
    lawful = values.ndim in (2, 3) and values.size and (values.ndim == 2 or values.shape[2] <= 4)
    top = {"f": 255, "i": 65_535, "u": 65_535, "b": 1}.get(values.dtype.kind, -1)
    with np.errstate(invalid="ignore"):
        lawful = lawful and top > 0 and bool((values >= 0).all() and (values <= top).all())
    assert (array is not None) == bool(lawful)


@pytest.fixture(scope="module", autouse=True)
def small_bombs():
    """A damaged header may promise any size; those of a gigabyte are for another day."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 250_000
    yield
    Image.MAX_IMAGE_PIXELS = most


@given(
    image=images(modes=("L", "RGB", "P", "RGBA")), format=st.sampled_from(FORMATS), is_cut=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), length=st.floats(0, 1), **WISHES,
)  # fmt: skip
def test_damaged_files_are_read_or_refused(image, format, is_cut, changes, length, resolution, num_channels):
    file = io.BytesIO()
    try:
        image.save(file, format)
    except (OSError, ValueError):  # not every format has every mode
        image.convert("RGB").save(file, format)
    content = bytearray(file.getvalue())
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    content = content[: int(length * len(content))] if is_cut else content
    read(bytes(content), resolution, num_channels, "x.png")


@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"DDS ", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"II*\0", b"GIF89a",
                        b"\0\0\0\x20ftypavif", b"RIFF\0\0\0\0WEBP", b"BM", b"8BPS", b"\x89HDF"]), st.binary(max_size=200))  # fmt: skip
def test_any_bytes_are_read_or_refused(head, rest):
    read(head + rest, 8, 3, "x.png")
