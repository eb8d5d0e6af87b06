import re

from diffusers_autonat import AutoNATPipeline, GenerationStrategy
from diffusers_autonat.cards import classes, usage
from tests.conftest import LABELS, tiny_pipeline


def test_both_ways_to_load_a_pipeline_run(tmp_path, monkeypatch):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    text = usage(
        "tiny", 'latents = pipe("dog", strategy=GenerationStrategy.cosine(2), output_type="latent").images',
        also=["GenerationStrategy"], imports="import torch",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    own, general = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope = {}
    exec(own, scope)
    assert scope["latents"].shape == (1, 49) and scope["GenerationStrategy"] is GenerationStrategy and "torch" in scope
    scope = {}
    exec(general, scope)
    assert type(scope["pipe"]) is AutoNATPipeline and scope["pipe"].id2label == LABELS
    assert 'custom_pipeline="tiny", trust_remote_code=True' in general


def test_classes():
    assert classes({1: "<b>", 0: "cat, kitty"}, 2) == "## Classes\n\n0 cat, kitty; 1 &lt;b&gt;."
    assert "1000, called by their ids" in classes(None, 1000) and "3, called" in classes({}, 3)
    many = classes({i: f"name {i}" for i in range(1000)}, 1000)
    assert many.count("\n") < 10 and "999 name 999." in many and "<details><summary>all 1000" in many
