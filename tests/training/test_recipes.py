import pytest

from diffusers_autonat import ENATTransformer2DModel, UViTTransformer2DModel
from diffusers_autonat.training.recipes import RECIPES, recipe_name, taken_by


def test_recipes():
    assert recipe_name("model_cards/autonat-fashion-mnist") == "uvit"
    assert recipe_name("model_cards/enat-fashion-mnist") == "enat"
    options = {"num_layers": 3, "num_encoder_layers": 2, "patch_size": 1}
    assert taken_by(UViTTransformer2DModel, options) == {"num_layers": 3, "patch_size": 1}
    assert taken_by(ENATTransformer2DModel, options) == {"num_encoder_layers": 2}
    assert taken_by(RECIPES["enat"].objective, {"reuse_prob": 0.1, "seed": 0}) == {"reuse_prob": 0.1}


def test_another_transformer_is_refused(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "DiTTransformer2DModel"}')
    with pytest.raises(ValueError, match="is a DiTTransformer2DModel; trained are UViTTransformer2DModel, ENAT"):
        recipe_name(str(tmp_path))
