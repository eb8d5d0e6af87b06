import io
import resource

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from diffusers_autonat.images import UnreadableImage, UnreadableImages, image_to_array
from tests.bad_images import write_bad_files


RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def test_transparency_is_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    assert image_to_array(image, None, None)[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 255]]


def test_size_and_channels_are_kept_or_changed():
    grey, colour = Image.new("L", (40, 30), 7), Image.new("P", (40, 30))
    assert image_to_array(grey, None, None).shape == (1, 30, 40)
    assert image_to_array(colour, None, None).shape == (3, 30, 40)
    assert image_to_array(grey, 10, 3).shape == (3, 10, 10)


def test_the_shorter_side_is_resized_and_the_centre_kept():
    image = Image.new("L", (60, 20))
    image.paste(200, (20, 0, 40, 20))
    assert (image_to_array(image, 20, 1) == 200).all()


@pytest.mark.parametrize("size", [(60, 40), (33, 50), (120, 30), (31, 31)])
@pytest.mark.parametrize("resolution", [20, 31, 64])
def test_ordinary_images_are_resized_whole_and_cropped(size, resolution):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    scale = resolution / min(size)
    whole = image.resize([max(resolution, round(side * scale)) for side in size], Image.Resampling.LANCZOS)
    left, top = (whole.width - resolution) // 2, (whole.height - resolution) // 2
    expected = np.asarray(whole.crop((left, top, left + resolution, top + resolution)))
    assert np.array_equal(image_to_array(image, resolution, 3).transpose(1, 2, 0), expected)


def test_a_long_thin_image_takes_no_memory():
    """Resized before it was cropped, this one took 5.4 GB."""
    file = io.BytesIO()
    Image.new("L", (1, 60_000), 200).save(file, "PNG")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (image_to_array(file.getvalue(), 256, 3) == 200).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
@pytest.mark.parametrize("num_channels", [1, 3, None])
def test_every_mode_shows_the_same_picture(mode, num_channels):
    halves = Image.fromarray(np.where(np.arange(64).reshape(8, 8) < 32, np.uint8(0), np.uint8(255)))
    through = {"La": ["LA"], "PA": ["P"], "RGBa": ["RGBA"], "P": ["P"]}.get(mode, ["RGB"])
    image = halves
    for step in [*through, mode]:
        image = image.convert(step)
    array = image_to_array(image, None, num_channels)
    grey = mode in ("1", "L", "LA", "La")
    assert array.shape == (num_channels or (1 if grey else 3), 8, 8)
    assert np.abs(array.astype(int) - np.asarray(halves)).max() <= 2


@pytest.mark.parametrize(
    "levels",
    [
        RAMP.astype(np.uint16) * 257,
        RAMP.astype(np.int32) * 257,
        RAMP.astype(np.int32),
        RAMP.astype(np.float32) / 255,
        RAMP.astype(np.float64),
        RAMP,
    ],
    ids=["16 bit", "16 bit in 32", "8 bit in 32", "up to 1", "up to 255", "8 bit"],
)
def test_levels_of_every_depth_are_the_same_picture(levels, tmp_path):
    assert np.array_equal(image_to_array(levels), RAMP[None])
    assert np.array_equal(image_to_array(np.stack([levels] * 3, -1)), np.stack([RAMP] * 3))
    if levels.dtype != np.float64:
        image = Image.fromarray(levels)
        assert np.array_equal(image_to_array(image), RAMP[None])
        image.save(tmp_path / "x.tiff")
        assert np.array_equal(image_to_array(tmp_path / "x.tiff", None, 3), np.stack([RAMP] * 3))
    if levels.dtype == np.uint16:
        Image.fromarray(levels).save(tmp_path / "x.png")
        assert np.array_equal(image_to_array(tmp_path / "x.png"), RAMP[None])


def test_a_dark_16_bit_file_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "x.png")
    assert image_to_array(tmp_path / "x.png").max() == 1


def test_a_transparent_16_bit_level_is_white(tmp_path):
    Image.fromarray(np.uint16([[0, 257], [514, 65535]])).save(tmp_path / "x.png", transparency=257)
    assert image_to_array(tmp_path / "x.png").tolist() == [[[0, 255], [2, 255]]]


@pytest.mark.parametrize(
    "levels",
    [np.float32([[np.nan]]), np.float32([[-0.1]]), np.float32([[300]]), np.int32([[-1]]), np.int32([[70_000]])],
)
def test_levels_without_meaning_are_refused(levels):
    for source in (levels, Image.fromarray(levels)):
        with pytest.raises(UnreadableImage, match="its levels go from .* scale them to 0 to"):
            image_to_array(source)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation, tmp_path):
    image, exif = Image.fromarray(np.repeat(RAMP, 2, axis=1)), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))[None]
        assert np.array_equal(image_to_array(opened), expected)
    assert (expected.shape[1] == 16) == (orientation > 4)
    content = (tmp_path / "x.png").read_bytes()
    for source in (tmp_path / "x.png", str(tmp_path / "x.png"), content, {"bytes": content, "path": "x.png"},
                   {"bytes": None, "path": str(tmp_path / "x.png")}):  # fmt: skip
        assert np.array_equal(image_to_array(source), expected)


def test_a_damaged_exif_block_says_nothing(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*garbage" + b"\xff" * 30)
    assert np.array_equal(image_to_array(tmp_path / "x.png"), RAMP[None])


def test_bad_files_are_one_line_that_names_them(tmp_path, recwarn):
    for name in [*write_bad_files(tmp_path), "absent.png"]:
        with pytest.raises(UnreadableImage, match=f"{name} cannot be read") as error:
            image_to_array(tmp_path / name)
        assert "\n" not in str(error.value) and "0x" not in str(error.value)
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(UnreadableImage, match="no regular file"):
            image_to_array(path)
    for source in (None, 3, np.zeros((2, 2, 5), np.uint8), np.zeros((0, 3), np.uint8), np.array([["a"]])):
        with pytest.raises(UnreadableImage, match="the image cannot be read"):
            image_to_array(source)


@pytest.mark.parametrize("arguments, message", [((0, 1), "resolution = 0"), ((8, 2), "num_channels = 2")])
def test_wrong_wishes(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_to_array(Image.fromarray(RAMP), *arguments)


def test_what_is_unreadable_is_counted_and_named():
    few = UnreadableImages("photos", num_read=2)
    few.finish()
    few.add(UnreadableImage("a.png cannot be read (x)"))
    with pytest.warns(UserWarning, match="1 of 3 images of photos could not be read and are left out: a.png cannot"):
        few.finish()
    few.add(UnreadableImage("b.png cannot be read (y)"))
    with pytest.raises(ValueError, match="2 of 4 images of photos cannot be read, e.g. a.png .*: replace them"):
        few.finish()
