"""Editing: which tokens are drawn anew and which never change, for both transformers and both conditions."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_autonat import AutoNATInpaintPipeline, AutoNATPipeline, GenerationStrategy, ReMDMStrategy
from diffusers_autonat.models.tokenizer import encode_images
from tests.conftest import tiny_pipeline
from tests.pipelines.test_pipeline_enat import enat_pipeline
from tests.pipelines.text_encoders import tiny_text_pipeline


MAKE = {"autonat": tiny_pipeline, "enat": enat_pipeline, "text": tiny_text_pipeline}
CONDITION = {"autonat": {"class_labels": "dog"}, "enat": {"class_labels": 1}, "text": {"prompt": "a red boat"}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inpaint(name):
    pipe = AutoNATInpaintPipeline(**MAKE[name]().components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=sorted(MAKE))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(name):
    return inpaint(name)


@pytest.fixture(scope="module")
def images(fashion_mnist):
    return [Image.fromarray(image) for image in fashion_mnist[0][:3]]


def box(left, top, right, bottom, size=(28, 28)):
    mask = Image.new("L", size, "black")
    mask.paste("white", (left, top, right, bottom))
    return mask


def tokens_of(pipe, images):
    pixels = torch.stack([torch.from_numpy(np.asarray(image)) for image in images])[:, None] / 255
    return encode_images(pipe.vqvae, pixels)


def edit(pipe, name, image, mask, **kwargs):
    kwargs = CONDITION[name] | {"num_inference_steps": 4, "generator": generator(), "output_type": "latent"} | kwargs
    return pipe(image, mask, **kwargs).images


STEPS = {"strategy": GenerationStrategy.cosine(4), "num_inference_steps": None}


def test_tokens_outside_the_mask_stay_in_a_ragged_batch(pipe, name, images):
    masks = [box(4, 4, 12, 12), box(0, 14, 28, 28), box(27, 27, 28, 28)]  # 4, 28 and 1 tokens of 4 x 4 pixels
    drawn = edit(pipe, name, images, masks, **STEPS)
    before = tokens_of(pipe, images)
    inside = torch.zeros(3, 7, 7, dtype=torch.bool)
    inside[0, 1:3, 1:3] = inside[1, 3:, :] = inside[2, 6, 6] = True
    assert torch.equal(drawn[~inside.flatten(1)], before[~inside.flatten(1)])
    assert drawn.max() < 16 and (drawn != before).any()


def test_a_small_hole_is_filled_over_all_steps(pipe, name, images):
    left = []
    edit(
        pipe, name, images[0], box(8, 8, 20, 20), strategy=GenerationStrategy.cosine(4), num_inference_steps=None,
        callback_on_step_end=lambda pipe, step, t, tensors: left.append(int((tensors["latents"] == 16).sum())),
    )  # fmt: skip
    assert left == [8, 6, 3, 0]  # floor(9 cos(pi t / 8)), not of 49


def test_a_white_mask_is_generation(name, images):
    pipe = inpaint(name)
    drawn = edit(pipe, name, images[0], box(0, 0, 28, 28), **STEPS)
    assert torch.equal(drawn, edit(pipe, name, images[1], None, **STEPS))
    plain = MAKE[name]()
    plain.set_progress_bar_config(disable=True)
    called = {**CONDITION[name], "generator": generator(), "output_type": "latent", "strategy": STEPS["strategy"]}
    assert torch.equal(drawn, plain(**called).images)


def test_a_black_mask_is_the_reconstruction(pipe, name, images, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("nothing is to be drawn")

    monkeypatch.setattr(pipe.transformer, "forward", fail)
    black = box(0, 0, 0, 0)
    assert torch.equal(edit(pipe, name, images, [black] * 3, **STEPS), tokens_of(pipe, images))
    pixels = edit(pipe, name, images[0], black, **STEPS, output_type="pt")
    assert torch.equal(pixels, pipe.decode_latents(tokens_of(pipe, images[:1])))


def test_batches_of_one_are_broadcast_and_an_image_does_not_depend_on_the_others(pipe, name, images):
    four = [generator(seed) for seed in range(4)]
    mask = box(0, 0, 28, 14)
    drawn = edit(pipe, name, images[:2], mask, **STEPS | {"num_images_per_prompt": 2, "generator": four})
    alone = edit(pipe, name, images[1], mask, **STEPS | {"generator": [generator(2)]})
    assert drawn.shape == (4, 49) and torch.equal(drawn[2:3], alone)


def test_strength_is_the_share_that_is_drawn_anew(pipe, name, images):
    before = tokens_of(pipe, images[:1])
    masked = []

    def look(pipe, step, t, tensors):
        masked.append(tensors["latents"])

    for strength, most in ((0.5, 25), (0.1, 5), (0.0, 0)):
        drawn = edit(pipe, name, images[0], None, **STEPS | {"strength": strength, "callback_on_step_end": look})
        assert (drawn != before).sum() <= most
    whole = edit(pipe, name, images[0], box(0, 0, 12, 12), **STEPS | {"strength": 0.5})
    assert (whole != before).sum() <= 5 and torch.equal(whole.view(7, 7)[3:], before.view(7, 7)[3:])


def test_a_share_that_is_whole_in_decimals_is_whole(pipe):
    """0.15 of 100 in float32 is a little more than 15."""
    marked = torch.ones(1, 100, dtype=torch.bool)
    for strength in (0.15, 0.35, 0.57, 0.01):
        assert pipe._choose_tokens(marked, strength, generator()).sum() == round(100 * strength)
    assert pipe._choose_tokens(marked, 0.151, generator()).sum() == 16


def test_pixels_outside_the_mask_may_be_kept(pipe, name, images):
    mask = box(10, 3, 20, 9)  # not whole tokens
    kept = edit(pipe, name, images[0], mask, **STEPS | {"keep_unmasked": True, "output_type": "pil"})[0]
    assert kept.size == (28, 28) and kept.mode == "L"
    outside = np.asarray(mask) == 0
    assert (np.asarray(kept)[outside] == np.asarray(images[0])[outside]).all()


def test_all_kinds_of_images_and_masks(pipe, name, images, tmp_path):
    mask = box(0, 0, 28, 14)
    expected = edit(pipe, name, images[0], mask, **STEPS)
    array, white = np.asarray(images[0]), np.asarray(mask)
    tensor = torch.from_numpy(array)[None, None] / 255
    images[0].convert("RGB").save(tmp_path / "image.png")
    for image, its_mask in (
        (array, white),
        (array[..., None], white > 0),
        (array.astype(np.float32) / 255, white / 255),
        (tensor, torch.from_numpy(white)[None, None] / 255),
        (images[0].convert("RGBA"), mask.convert("1")),
        ([images[0]], [mask]),
    ):
        assert torch.equal(edit(pipe, name, image, its_mask, **STEPS), expected)


def test_other_sizes_are_resized(pipe, name, images):
    large, mask = images[0].resize((112, 112)), box(0, 0, 112, 56, size=(112, 112))
    drawn = edit(pipe, name, large, mask, **STEPS)
    assert drawn.shape == (1, 49)
    assert torch.equal(drawn, edit(pipe, name, large, box(0, 0, 56, 28, size=(56, 56)), **STEPS))


def test_a_batch_may_have_images_and_masks_of_several_sizes(pipe, name, images):
    large = [images[0].resize((112, 56)), images[1]]
    masks = [box(0, 0, 56, 28, size=(56, 56)), box(0, 0, 14, 28)]
    four = [generator(seed) for seed in range(2)]
    together = edit(pipe, name, large, masks, **STEPS | {"generator": four})
    for i in range(2):
        alone = edit(pipe, name, large[i], masks[i], **STEPS | {"generator": [generator(i)]})
        assert torch.equal(together[i : i + 1], alone)


def test_white_and_black_masks_in_one_batch(pipe, name, images):
    before = tokens_of(pipe, images)
    drawn = edit(pipe, name, images, [box(0, 0, 28, 28), box(0, 0, 0, 0), box(0, 0, 9, 9)], **STEPS)
    assert torch.equal(drawn[1], before[1])
    assert (drawn[0] != before[0]).any() and drawn.max() < 16


def test_a_crop_is_painted_and_put_back(pipe, name, images):
    large = images[0].resize((80, 80))
    mask = box(30, 30, 44, 44, size=(80, 80))
    painted = edit(pipe, name, large, mask, **STEPS | {"padding_mask_crop": 4, "output_type": "pil"})[0]
    assert painted.size == (80, 80) and painted.mode == large.mode
    outside = np.asarray(mask) == 0
    assert np.abs(np.asarray(painted).astype(int) - np.asarray(large))[outside].max() <= 1


def test_components_keep_their_data_types(caplog):
    pipe = tiny_pipeline().to(torch.bfloat16)
    weight = pipe.transformer.head.bias.data_ptr()
    caplog.clear()
    edit = AutoNATInpaintPipeline.from_pipe(pipe)
    assert "should be kept in float32" not in caplog.text  # nothing was cast
    assert edit.transformer.dtype == edit.vqvae.dtype == torch.bfloat16
    assert edit.transformer.head.bias.data_ptr() == weight  # not converted and back
    before = pipe.transformer.head.bias.clone()
    pipe.vqvae.float()
    edit = AutoNATInpaintPipeline.from_pipe(pipe)
    assert (edit.transformer.dtype, edit.vqvae.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(edit.transformer.head.bias, before)
    assert AutoNATInpaintPipeline.from_pipe(pipe, dtype=torch.float32).transformer.dtype == torch.float32


def test_from_another_pipeline_and_from_a_folder(images, tmp_path):
    plain = tiny_pipeline()
    pipe = AutoNATInpaintPipeline.from_pipe(plain)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer is plain.transformer and pipe.id2label == plain.id2label
    expected = edit(pipe, "autonat", images[0], box(0, 0, 9, 9))
    plain.save_pretrained(tmp_path / "plain")
    for again in (
        AutoNATInpaintPipeline.from_pretrained(tmp_path / "plain"),
        AutoNATInpaintPipeline(**plain.components),
    ):
        assert torch.equal(edit(again, "autonat", images[0], box(0, 0, 9, 9)), expected)
    pipe.save_pretrained(tmp_path / "inpaint")
    again = AutoNATInpaintPipeline.from_pretrained(tmp_path / "inpaint")
    assert torch.equal(edit(again, "autonat", images[0], box(0, 0, 9, 9)), expected)
    back = AutoNATPipeline.from_pipe(again)
    assert back.id2label == plain.id2label


@pytest.mark.parametrize(
    "which, arguments, message",
    [
        ("autonat", {"class_labels": None}, "class id None"),
        ("autonat", {"prompt": "a boat"}, "class-conditional: give `class_labels`"),
        ("text", {"class_labels": 1}, "text-conditional: give a `prompt`"),
        ("text", {"prompt": None}, "either `prompt` or `prompt_embeds`"),
        ("autonat", {"class_labels": [1, 2]}, "3 images, 1 masks, 2 prompts or classes do not fit together"),
        ("autonat", {"mask_image": [box(0, 0, 1, 1)] * 2}, "3 images, 2 masks"),
        ("autonat", {"strength": 1.5}, "strength = 1.5 must be a number from 0 to 1"),
        ("autonat", {"strength": float("nan")}, "strength = nan"),
        ("autonat", {"image": []}, "do not fit|image is empty"),
        ("autonat", {"image": "nowhere.png"}, "image cannot be read"),
        ("autonat", {"image": torch.zeros(1, 3, 28, 28)}, r"image must be tensors \[1, H, W\]"),
        ("autonat", {"image": torch.full((1, 1, 28, 28), 255.0)}, "scale them to 0 to 1"),
        ("autonat", {"padding_mask_crop": 3}, "one Pillow image and mask"),
        ("autonat", {"image": Image.new("L", (28, 28)), "mask_image": box(0, 0, 9, 9, (56, 56)), "padding_mask_crop": 3},
         "must be of one size to be cropped"),
        ("autonat", {"image": Image.new("L", (28, 28)), "mask_image": box(0, 0, 0, 0), "padding_mask_crop": 3},
         "mask_image is all black, so there is nothing to crop to"),
        ("autonat", {"mask_image": []}, "3 images, 0 masks"),
        ("autonat", {"class_labels": []}, "class_labels is empty"),
        ("autonat", {"mask_image": [torch.zeros(1, 28, 28), torch.zeros(1, 14, 14), torch.zeros(1, 28, 28)]}, "of one size"),
        ("text", {"prompt": []}, "prompt is empty"),
        ("text", {"prompt": ["a", "a"]}, "3 images, 1 masks, 2 prompts or classes do not fit together"),
        ("text", {"prompt": "a", "negative_prompt": ["b", "b", "b"]}, "3 negative prompts for 1 prompts"),
        ("autonat", {"num_images_per_prompt": 2.0}, "num_images_per_prompt = 2.0"),
        ("autonat", {"generator": [generator()]}, "1 generators were passed for 3 images"),
        ("autonat", {"num_inference_steps": 7, "strategy": GenerationStrategy.cosine(3)}, r"differ in length: \[3, 7\]"),
        ("text", {"strategy": ReMDMStrategy.cosine(3)}, "NATScheduler takes a GenerationStrategy, not a ReMDMStrategy"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_before_a_network_runs(images, which, arguments, message):
    call = {"image": images, "mask_image": box(0, 0, 9, 9), **CONDITION[which], **arguments}
    pipe = inpaint(which)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.register_forward_pre_hook(lambda *_: pytest.fail("a network ran"))
    pipe.vqvae.encoder.register_forward_pre_hook(lambda *_: pytest.fail("the image was encoded"))
    with pytest.raises(ValueError, match=message):
        pipe(**call)
