import inspect

import pytest

from diffusers_autonat import ENATTransformer2DModel, UViTTransformer2DModel


SMALL = {"sample_size": 4, "codebook_size": 16, "hidden_size": 32, "num_attention_heads": 4, "num_classes": 4}


@pytest.mark.parametrize("model", [UViTTransformer2DModel, ENATTransformer2DModel])
@pytest.mark.parametrize("size", [0, -1, 10**9, 2.0, "16", True])
def test_sizes_that_no_model_has_are_named(model, size):
    layers = {name: 1 for name in inspect.signature(model).parameters if name.endswith("layers")}
    for name in (*SMALL, *layers):
        with pytest.raises(ValueError, match=f"`{name}` has to be a whole number from 1 to"):
            model(**(SMALL | layers | {name: size}))


def test_a_config_from_a_file_is_looked_at_too():
    config = dict(UViTTransformer2DModel(**SMALL, num_layers=1).config)
    with pytest.raises(ValueError, match="`num_layers` has to be a whole number from 1 to 1,000, but is 1000000001"):
        UViTTransformer2DModel.from_config(config | {"num_layers": 10**9 + 1})
