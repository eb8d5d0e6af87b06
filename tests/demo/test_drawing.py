"""What the app does, without a browser and without Gradio: the limits hold, and what is shown is what was asked for."""

import math

import numpy as np
import pytest
import torch
from drawing import CURVES, HEURISTIC, ROOM_ABOVE, STORED, Limits, Studio
from PIL import Image

from diffusers_autonat import AutoNATPipeline, EntropyBoundedScheduler, GenerationStrategy
from diffusers_autonat.loading import load_pipeline
from tests.pipelines.text_encoders import save_without_encoder, tiny_text_pipeline


ENDS = {
    "mask_ratios": (0.9, 0.3), "sampling_temperatures": (2.0, 1.0), "remasking_temperatures": (4.0, 0.0),
    "guidance_scales": (0.0, 3.0),
}  # fmt: skip
SETTINGS = {"remasking_temperature": 2.0, "guidance_scale": 1.0}


@pytest.fixture
def studio(pipe):
    return Studio(pipe, Limits(images=3, steps=8))


def test_strategies(studio):
    assert studio.kinds == [STORED, HEURISTIC, CURVES] and studio.stored_steps == [4, 8]
    assert studio.strategy(STORED, 4, SETTINGS, ENDS) == GenerationStrategy.cosine(4)
    assert studio.strategy(HEURISTIC, 5, SETTINGS, ENDS) == GenerationStrategy.cosine(5, 1.0, 2.0, 1.0)
    own = studio.strategy(CURVES, 4, SETTINGS, ENDS)
    assert np.allclose(own.mask_ratios, [0.9, 0.6, 0.3, 0])
    assert np.allclose(own.guidance_scales, [0, 1, 2, 3]) and np.allclose(own.sampling_temperatures[::3], [2, 1])
    assert studio.strategy(CURVES, 1, SETTINGS, ENDS).mask_ratios == (0.0,)


@pytest.mark.parametrize(
    ("kind", "steps", "message"),
    [
        (STORED, 5, "5"), (HEURISTIC, 9, "1 to 8 are possible"), (HEURISTIC, 0, "1 to 8"), (CURVES, 2.5, "whole number"),
        (CURVES, math.nan, "whole number"), (HEURISTIC, True, "whole number"), ("<b>", 4, "no strategy of this model"),
    ],
)  # fmt: skip
def test_wrong_strategies(studio, kind, steps, message):
    with pytest.raises(ValueError, match=message):
        studio.strategy(kind, steps, SETTINGS, ENDS)


@pytest.mark.parametrize(
    ("what", "count", "seed", "message"),
    [
        ("dog", 4, 0, "1 to 3 are possible"), ("dog", 1, -1, "the seed"), ("dog", "1", 0, "whole number"), ("wolf", 1, 0, "no such class"),
        (None, 1, 0, "Choose a class"), (["dog"], 1, 0, "Choose a class"), ("dog", 1, 1e300, "the seed"),
    ],
)  # fmt: skip
def test_wrong_wishes(studio, what, count, seed, message):
    with pytest.raises(ValueError, match=message):
        studio.wish(what, count, seed, None)


def test_an_image_is_that_of_the_pipeline(studio, pipe):
    strategy = GenerationStrategy.cosine(4)
    drawn = studio.draw(studio.wish("dog", 2, 7, strategy))
    again = pipe(
        "dog", strategy=strategy, num_images_per_prompt=2, generator=[torch.Generator().manual_seed(s) for s in (7, 8)]
    )
    for shown, image in zip(drawn.images, again.images, strict=True):
        assert shown.size == (280, 280) and (np.asarray(shown)[::10, ::10] == np.asarray(image)).all()
    assert drawn.said.startswith("2 images in 4 steps: ") and drawn.said.endswith("Seed 7.")
    more = studio.draw(studio.wish("dog", 3, 7, strategy)).images
    assert [one.tobytes() for one in more[:2]] == [one.tobytes() for one in drawn.images]
    longer = studio.draw(studio.wish("dog", 1, 7, GenerationStrategy.cosine(8))).steps
    heights = [one.height - one.width // ROOM_ABOVE for one in (drawn.steps, longer)]
    assert heights[0] == heights[1] and longer.width - drawn.steps.width == round(4 * 1.3 * 110)
    assert studio.schedules(strategy, HEURISTIC).width > 1000


def test_classes_of_one_name_are_told_apart(pipe):
    names = {0: "cat", 1: "crane", 2: "crane"}
    studio = Studio(AutoNATPipeline(pipe.vqvae, pipe.transformer, pipe.scheduler, names))
    assert studio.class_names == ["cat", "crane 1", "crane 2", "class"]
    strategy = GenerationStrategy.cosine(4, guidance_scale=300.0)  # so that random weights care for the class
    images = [studio.draw(studio.wish(f"crane {i}", 1, 0, strategy)).images[0] for i in (1, 2)]
    assert images[0].tobytes() != images[1].tobytes()


def test_the_heuristic_begins_at_the_papers_settings(pipe):
    assert Studio(pipe).heuristic_settings == (4.5, 3.0)
    assert Studio(load_pipeline("model_cards/enat-fashion-mnist")).heuristic_settings == (1.5, 2.5)


def test_another_order_has_no_sliders(pipe):
    scheduler = EntropyBoundedScheduler(16)
    studio = Studio(AutoNATPipeline(pipe.vqvae, pipe.transformer, scheduler))
    assert studio.kinds == [HEURISTIC]
    strategy = studio.strategy(HEURISTIC, 4, SETTINGS, ENDS)
    assert strategy == scheduler.heuristic(4) and studio.schedules(strategy, HEURISTIC) is not None
    assert len(studio.draw(studio.wish("class 1", 1, 0, strategy)).images) == 1


def test_inpainting_changes_what_is_painted(studio, fashion_mnist):
    image = Image.fromarray(fashion_mnist[0][0]).resize((300, 280), 0)  # wider than high: the centre is taken
    painted = np.zeros((280, 300), bool)
    painted[140:] = True
    wish = studio.wish("dog", 1, 0, GenerationStrategy.cosine(4))
    result = np.asarray(studio.inpaint(wish, image, painted, 1.0, keep=True).images[0])[::10, ::10]
    square = np.asarray(studio.square(image, 1))
    assert (result[:14] == square[:14]).all() and (result[14:] != square[14:]).any()
    other = np.asarray(studio.inpaint(wish, image, painted, 1.0, keep=False).images[0])[::10, ::10]
    assert (other[:14] != square[:14]).any()  # all of it as the tokenizer has it
    with pytest.raises(ValueError, match="Nothing is painted over"):
        studio.inpaint(wish, image, ~(painted | ~painted), 1.0, keep=True)
    edge = np.zeros((280, 300), bool)
    edge[:, :9] = True
    with pytest.raises(ValueError, match="outside of the square"):
        studio.inpaint(wish, image, edge, 1.0, keep=True)
    with pytest.raises(ValueError, match="strength"):
        studio.inpaint(wish, image, painted, 0, keep=True)


def test_prompts(fashion_mnist):
    pipe = tiny_text_pipeline()
    studio = Studio(pipe, Limits(prompt=20))
    strategy = studio.strategy(CURVES, 3, SETTINGS, ENDS)
    drawn = studio.draw(studio.wish("a red boat", 1, 5, strategy))
    image = pipe("a red boat", strategy=strategy, generator=torch.Generator().manual_seed(5)).images[0]
    assert (np.asarray(drawn.images[0])[::10, ::10] == np.asarray(image)).all()
    painted = np.ones((28, 28), bool)
    wish = studio.wish("$5 <b> $", 2, 0, strategy)  # not taken for a formula in the picture of the steps
    assert len(studio.inpaint(wish, Image.fromarray(fashion_mnist[0][0]), painted, 0.5, keep=False).images) == 2
    with pytest.raises(ValueError, match="has 21 characters; 20 are the most"):
        studio.wish("x" * 21, 1, 0, None)
    with pytest.raises(ValueError, match="Say what to draw"):
        studio.wish("  ", 1, 0, None)


def test_a_pipeline_without_its_text_encoder(tmp_path):
    encoder = save_without_encoder(tmp_path / "pipeline", tmp_path / "encoder")
    with pytest.raises(ValueError, match="pipeline is stored without its text encoder: name that with --text-encoder"):
        Studio(tmp_path / "pipeline")
    studio = Studio(tmp_path / "pipeline", text_encoder=encoder)
    wish = ("a red boat", 1, 5, studio.strategy(HEURISTIC, 4, SETTINGS, ENDS))
    image, same = (one.draw(one.wish(*wish)).images[0] for one in (studio, Studio(tiny_text_pipeline())))
    assert image.tobytes() == same.tobytes()
