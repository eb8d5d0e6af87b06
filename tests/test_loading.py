"""A pipeline by the class that its folder names."""

import json
import shutil

import pytest
import torch

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.loading import load_pipeline


SHIPPED = "model_cards/enat-fashion-mnist"


def test_loads_the_class_that_the_folder_names():
    pipe = load_pipeline(SHIPPED, torch.float16)
    assert type(pipe) is AutoNATPipeline
    assert pipe.transformer.dtype == pipe.vqvae.dtype == torch.float16


def test_what_is_no_pipeline_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="has no model_index.json"):
        load_pipeline(tmp_path)
    shutil.copy(f"{SHIPPED}/model_index.json", tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "DiTPipeline"}))
    with pytest.raises(ValueError, match="holds a DiTPipeline; the pipelines of this package are .*AutoNATPipeline"):
        load_pipeline(tmp_path)


def test_an_unreachable_name_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing is no folder of a pipeline, and none can be reached"):
        load_pipeline("nobody/nothing")
