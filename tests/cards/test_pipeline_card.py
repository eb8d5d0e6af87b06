import re
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from diffusers_autonat import AutoNATInpaintPipeline, AutoNATTextToImagePipeline
from diffusers_autonat.cards import pipeline_card
from diffusers_autonat.loading import load_pipeline
from tests.conftest import tiny_pipeline
from tests.pipelines.text_encoders import save_without_encoder, tiny_text_pipeline


def test_a_text_pipeline_without_its_encoder_has_the_card_of_one_and_says_where_to_name_it(tmp_path, monkeypatch):
    encoder = save_without_encoder(tmp_path / "text", tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    text = pipeline_card(load_pipeline("text"), "text")
    data = ModelCard(text).data
    assert data.pipeline_tag == "text-to-image" and "text-conditional" in data.tags and "lasses" not in text
    own, general = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope = {}
    exec(own.replace('"NAME"', repr(encoder)), scope)
    assert scope["image"].size == (28, 28)
    exec(general, scope)
    assert type(scope["pipe"]) is AutoNATTextToImagePipeline and scope["pipe"].text_encoder is not None


@pytest.mark.parametrize("inpaints", [False, True])
def test_a_stored_encoder_is_not_asked_for(inpaints):
    pipe = tiny_text_pipeline()
    text = pipeline_card(AutoNATInpaintPipeline(**pipe.components) if inpaints else pipe, "me/text")
    assert ModelCard(text).data.pipeline_tag == "text-to-image" and "load_text_encoder" not in text
    assert ("image, mask, prompt='a red boat" in text) == inpaints


def test_a_pipeline_that_inpaints_by_prompts_is_one_of_text_without_its_encoder_too():
    pipe = AutoNATInpaintPipeline(**tiny_text_pipeline().components)
    pipe.register_modules(text_encoder=None, tokenizer=None)
    text = pipeline_card(pipe, "me/text")
    assert ModelCard(text).data.pipeline_tag == "text-to-image" and 'load_text_encoder("NAME")' in text


def test_a_pipeline_of_classes_is_called_with_one():
    text = pipeline_card(AutoNATInpaintPipeline(**tiny_pipeline().components), "me/classes")
    assert ModelCard(text).data.pipeline_tag == "unconditional-image-generation" and "class_labels='cat" in text


def test_cards_are_imported_before_pipelines():
    """The pipelines import the card, and the card asks of pipelines what they take."""
    subprocess.run([sys.executable, "-c", "from diffusers_autonat.cards import pipeline_card"], check=True)
