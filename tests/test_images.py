from PIL import Image

from diffusers_autonat.images import image_to_array


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
