import re

from diffusers_autonat import AutoNATPipeline, GenerationStrategy
from diffusers_autonat.cards import classes, hub_id, license_section, metadata, result, shown_folder, usage
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


def test_metadata_names_a_base_model_of_the_hub_and_what_was_measured(tmp_path, monkeypatch):
    measured = [result("fid", 1.23456789, "me/flowers", "FID, N = 10"), result("accuracy", 1, "my own images")]
    data = metadata(
        "mit", ["x"], base_model="me/base", base_model_relation="adapter", name="small", results=measured
    ).to_dict()
    assert data["base_model"] == "me/base" and data["base_model_relation"] == "adapter"
    first, second = data["model-index"][0]["results"]
    assert first["dataset"] == {"type": "me/flowers", "name": "me/flowers"}
    assert first["metrics"] == [{"type": "fid", "value": 1.234568, "name": "FID, N = 10"}]
    assert (
        second["dataset"] == {"type": "custom", "name": "my own images"} and data["model-index"][0]["name"] == "small"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "base").mkdir(parents=True)
    data = metadata(None, ["x"], base_model="me/base", base_model_relation="adapter").to_dict()
    assert not {"base_model", "base_model_relation", "license", "model-index"} & set(data)


def test_what_is_an_id_of_the_hub(tmp_path):
    assert hub_id("me/my-model.v2") == "me/my-model.v2"
    assert all(
        hub_id(name) is None
        for name in (None, "", "model", "a/b/c", "./pipeline", "/home/me", str(tmp_path), "me/two words")
    )


def test_a_folder_is_shown_without_where_it_lies_and_is_no_id_of_the_hub():
    assert shown_folder("outputs/autonat", "pipeline") == "./outputs/autonat/pipeline"
    assert (
        shown_folder("/home/me/autonat/", "pipeline") == shown_folder("../autonat", "pipeline") == "./autonat/pipeline"
    )
    assert shown_folder(".", "pipeline") == "./pipeline" and hub_id("./pipeline") is None


def test_a_license_that_nobody_has_stated():
    assert "ask before you use it" in license_section("unknown") and "mit, as stated" in license_section("mit")
    assert license_section(None) == ""
