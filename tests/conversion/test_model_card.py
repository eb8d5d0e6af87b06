"""The card of released weights: where they come from, on which terms, what to cite, and where the files are."""

import pytest
import torch
from huggingface_hub import ModelCard

from diffusers_autonat.conversion import SOURCES
from diffusers_autonat.conversion.checkpoint import Checkpoint
from diffusers_autonat.conversion.model_card import converted_card
from diffusers_autonat.conversion.vqgan import convert_vqgan_state_dict
from diffusers_autonat.models.transformer_enat import ENATTransformer2DModel
from diffusers_autonat.models.transformer_uvit import UViTTransformer2DModel
from tests.conversion.released import ReleasedVQGAN, release_enat, release_uvit


SOURCE = {source.name: source for source in SOURCES}
MUSE = {"hidden_size": 1152, "num_layers": 29, "num_attention_heads": 16, "context_dim": 1280}


@pytest.fixture(scope="module")
def released():
    """The configs of the released models, found in tensors of their sizes."""
    with torch.device("meta"):
        models = {
            "autonat": release_uvit(UViTTransformer2DModel()),
            "autonat-text": release_uvit(UViTTransformer2DModel(**MUSE)),
            "enat": release_enat(ENATTransformer2DModel()),
        }
    return {name: SOURCE[name].convert(weights, **SOURCE[name].assumed)[0] for name, weights in models.items()}


@pytest.fixture(scope="module")
def tokenizer():
    # Of the released widths, but with few codes: the folding is computed.
    weights = ReleasedVQGAN.random_weights([128, 128, 256, 256, 512], 2, 4, 256, 3)
    return convert_vqgan_state_dict(weights)[0] | {"num_vq_embeddings": 1024}


FACTS = {
    "autonat": ("mit", "trained on ImageNet by its authors", "LeapLabTHU/ImprovedNAT", "AutoNAT_L-T8_strategy.yaml",
                "under the MIT license", "Ni2024AutoNAT", "25 blocks, 8 heads", "Chang2022MaskGIT", "Li2023MAGE",
                "vqgan_jax_strongaug.ckpt", "LTH14/mage", "pipe(0)"),
    "autonat-text": ("other", "trained on CC3M by its authors", "LeapLabTHU/AdaNAT", "huggingface.co/nzl-thu/MUSE",
                     "assets/ckpts/cc3m-285000.ckpt/nnet_ema.pth", "look there before you use", "Ni2024AutoNAT",
                     "Ni2024AdaNAT", "77 text states of width 1280", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
                     "AutoNATTextToImagePipeline.from_pretrained", "pipe('a red boat on a lake')"),
    "enat": ("other", "trained on ImageNet by its authors", "LeapLabTHU/ENAT", "nnet_ema_512.pth", "states no license",
             "Ni2024ENAT", "22 encoder and 2 decoder blocks, 16 heads", "Chang2022MaskGIT", "pipe(0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_of_released_weights(tmp_path, released, tokenizer, name):
    (tmp_path / "x.pth").write_bytes(b"")
    file = Checkpoint(tmp_path / "x.pth", {}, [])
    parts = [(SOURCE[name], file, released[name]), (SOURCE["vqgan"], file, tokenizer)]
    encoder = SOURCE[name].text_encoder
    text = converted_card("me/model", parts, 123, [8], 0, text_encoder=encoder.name if encoder else "")
    license, *facts = FACTS[name]
    data = ModelCard(text).data
    assert data.license == license and data.library_name == "diffusers" and data.datasets
    assert data.pipeline_tag == ("text-to-image" if name == "autonat-text" else "unconditional-image-generation")
    assert "trust_remote_code=True" in text and ("## Classes" in text) == (name != "autonat-text")
    assert [fact for fact in facts if fact not in text] == [] and "not the released weights" not in text
    assert "{" not in text.split("```bibtex")[0].split("## License")[1]  # no placeholder is left
    # A 512 px ENAT was released too; a class more or another width is somebody's own.
    for change, own in (({"sample_size": 32}, name != "enat"), ({"hidden_size": 64}, True)):
        card = converted_card("me/model", [(SOURCE[name], file, released[name] | change), parts[1]], 123, [8], 0)
        assert ("trained by somebody else" in card) == own
        assert not own or (ModelCard(card).data.license == "other" and "trained on ImageNet" not in card)
        assert not own or ModelCard(card).data.datasets is None


def test_class_names_are_listed_and_escaped(tmp_path, released, tokenizer):
    (tmp_path / "x.pth").write_bytes(b"")
    file = Checkpoint(tmp_path / "x.pth", {}, [])
    parts = [(SOURCE["autonat"], file, released["autonat"]), (SOURCE["vqgan"], file, tokenizer)]
    card = converted_card("me/model", parts, 123, [8], 0, {0: "tench, Tinca tinca", 1: "<script>alert(1)</script>"})
    assert "0 tench, Tinca tinca; 1 &lt;script&gt;alert(1)&lt;/script&gt;." in card and "<script>" not in card
