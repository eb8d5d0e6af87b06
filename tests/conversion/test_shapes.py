"""U-ViT and ENAT of any size go through the authors' layout and come back."""

import pytest
import torch

from diffusers_autonat import ENATTransformer2DModel, UViTTransformer2DModel
from diffusers_autonat.conversion import SOURCES, convert_enat_state_dict, convert_uvit_state_dict
from tests.conftest import load_reference
from tests.conversion.released import load_policy, load_vqgan, randomise, release_enat, release_uvit


@pytest.mark.parametrize(
    "config",
    [
        {"sample_size": 3, "codebook_size": 7, "hidden_size": 15, "num_layers": 1, "num_attention_heads": 5,
         "num_classes": 1, "mlp_ratio": 2.0},
        {"sample_size": 5, "codebook_size": 100, "hidden_size": 12, "num_layers": 7, "num_attention_heads": 3,
         "num_classes": 1000},
        {"sample_size": 4, "codebook_size": 11, "hidden_size": 16, "num_layers": 3, "num_attention_heads": 1,
         "context_dim": 9, "context_length": 5},
        # 28 * (61 / 28) is a little less than 61
        {"sample_size": 3, "codebook_size": 7, "hidden_size": 28, "num_layers": 3, "num_attention_heads": 4,
         "num_classes": 2, "mlp_ratio": 61 / 28},
    ],
)  # fmt: skip
@torch.no_grad()
def test_uvit(config):
    model = randomise(UViTTransformer2DModel(**config))
    heads, length = config["num_attention_heads"], config.get("context_length", 77)
    found, state_dict = convert_uvit_state_dict(release_uvit(model), heads, length)
    assert {key: found[key] for key in config} == config
    assert model.mid_block.ff.net[2].in_features == round(config["hidden_size"] * config.get("mlp_ratio", 4))
    converted = UViTTransformer2DModel(**found).eval()
    converted.load_state_dict(state_dict)
    ids = torch.randint(config["codebook_size"] + 1, (2, config["sample_size"] ** 2))
    if "context_dim" in config:
        condition = {"encoder_hidden_states": torch.randn(2, length, config["context_dim"])}
    else:
        condition = {"class_labels": torch.tensor([0, config["num_classes"]])}
    assert torch.equal(converted(ids, **condition).sample, model(ids, **condition).sample)


@pytest.mark.parametrize(
    ("config", "num_decoder_layers"),
    [
        ({"sample_size": 3, "codebook_size": 7, "hidden_size": 15, "num_encoder_layers": 1, "num_attention_heads": 3,
          "num_classes": 1}, 1),
        ({"sample_size": 5, "codebook_size": 33, "hidden_size": 8, "num_encoder_layers": 11, "num_attention_heads": 1,
          "num_classes": 20, "mlp_ratio": 3.0}, 2),
        ({"sample_size": 4, "codebook_size": 9, "hidden_size": 8, "num_encoder_layers": 2, "num_attention_heads": 8,
          "num_classes": 3}, 5),
        ({"sample_size": 3, "codebook_size": 7, "hidden_size": 28, "num_encoder_layers": 1, "num_attention_heads": 4,
          "num_classes": 2, "mlp_ratio": 61 / 28}, 1),
    ],
)  # fmt: skip
@torch.no_grad()
def test_enat(config, num_decoder_layers):
    model = randomise(ENATTransformer2DModel(**config, num_decoder_layers=num_decoder_layers))
    found, state_dict = convert_enat_state_dict(release_enat(model), config["num_attention_heads"], num_decoder_layers)
    assert {key: found[key] for key in config} == config and found["num_decoder_layers"] == num_decoder_layers
    assert model.encoder_blocks[0].ff.net[2].in_features == round(config["hidden_size"] * config.get("mlp_ratio", 4))
    converted = ENATTransformer2DModel(**found).eval()
    converted.load_state_dict(state_dict)
    ids = torch.randint(config["codebook_size"] + 1, (2, config["sample_size"] ** 2))
    labels = torch.tensor([0, config["num_classes"]])
    assert torch.equal(converted(ids, labels).sample, model(ids, labels).sample)


def test_layers_for_patches_are_not_guessed():
    weights = release_uvit(
        UViTTransformer2DModel(sample_size=4, patch_size=2, codebook_size=7, hidden_size=8, num_layers=1)
    )
    with pytest.raises(ValueError, match="not expected: embed.patch_proj.weight"):
        convert_uvit_state_dict(weights)


def test_every_checkpoint_is_recognised_as_what_it_is():
    policy = load_policy()
    checkpoints = {
        ("autonat", "adagen"): load_reference("uvit")[0],  # AdaGen's transformer is a U-ViT; the user says which it is
        ("autonat-text",): load_reference("uvit_text")[0],
        ("enat",): load_reference("enat")[0],
        ("vqgan",): load_vqgan()[0],
        ("adagen-policy",): policy,
        ("adanat-policy",): {f"actor.{name}": tensor for name, tensor in policy.items()},
    }
    assert {source.name for source in SOURCES} == {name for names in checkpoints for name in names}
    for names, tensors in checkpoints.items():
        assert tuple(source.name for source in SOURCES if source.recognise(tensors)) == names
