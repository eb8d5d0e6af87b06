"""A checkpoint that lies beside the ones that are converted is called by its name."""

import pytest
import torch
from diffusers import VQModel

from diffusers_autonat import ENATTransformer2DModel, UViTTransformer2DModel
from diffusers_autonat.conversion import SOURCES
from diffusers_autonat.conversion.folder import convert_component
from diffusers_autonat.conversion.others import OTHERS
from tests.conftest import load_reference
from tests.conversion.released import ReleasedVQGAN, load_vqgan


SIZES = {"sample_size": 4, "codebook_size": 7, "hidden_size": 8, "num_attention_heads": 2}
# Names as the other projects write them; of large models those that tell them apart.
NAMES = {
    "a transformer of diffusers-autonat": list(UViTTransformer2DModel(**SIZES, num_layers=1).state_dict()),
    "a VQModel of diffusers": list(VQModel().state_dict()),
    "a VQGAN of taming-transformers": [
        *ReleasedVQGAN.random_weights([32], 1, 2, 2, 3), "quant_conv.weight", "post_quant_conv.weight", "loss.logvar"
    ],
    "open-muse's copy of MaskGIT's VQGAN": ["encoder.conv_in.weight", "quantize.embedding.weight",
                                            "decoder.up.1.upsample_conv.weight"],
    "MAGE": ["cls_token", "decoder_pos_embed_learned", "token_emb.word_embeddings.weight", "vqgan.encoder.conv_in.weight"],
    "the Inception network that FID is measured with": ["Mixed_5b.branch1x1.conv.weight", "Mixed_7c.branch1x1.conv.weight"],
    "the state of an optimizer": ["state.0.exp_avg", "state.0.exp_avg_sq"],
}  # fmt: skip


@pytest.mark.parametrize("title", NAMES)
def test_it_is_named(tmp_path, title):
    torch.save({name: torch.zeros(1) for name in NAMES[title]}, tmp_path / "x.pth")
    (other,) = (one for one in OTHERS if one.title == title)
    for source in SOURCES:
        with pytest.raises(ValueError) as error:
            convert_component(tmp_path / "x.pth", [source])
        assert str(error.value) == f"{tmp_path / 'x.pth'} holds {title}, not {source.title}; {other.remedy}."


def test_all_are_tested_and_each_is_one():
    assert list(NAMES) == [other.title for other in OTHERS]
    enat = ENATTransformer2DModel(**SIZES, num_encoder_layers=1).state_dict()
    for title, names in [*NAMES.items(), (OTHERS[0].title, enat)]:
        assert [one.title for one in OTHERS if one.recognise(names)] == [title]


def test_what_is_converted_is_none_of_them():
    for tensors in (load_vqgan()[0], *(load_reference(name)[0] for name in ("uvit", "uvit_text", "enat"))):
        assert not any(other.recognise(tensors) for other in OTHERS)
