"""Encoders of the published sizes and of other kinds; what does not fit is said before anything large is read."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, ViTConfig, ViTModel

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.cli import main
from diffusers_autonat.conversion import SOURCES, convert_uvit_state_dict
from diffusers_autonat.conversion.text_encoder import TextEncoder
from tests.conversion.released import release_uvit
from tests.pipelines.text_encoders import WORDS, tiny_encoder, tiny_tokenizer


(RELEASED,) = (source.text_encoder for source in SOURCES if source.text_encoder)
# AutoNAT-Muse on CC3M (Table 5) with CLIP-ViT-bigG, AutoNAT-S on COCO (Table 4) with CLIP-ViT-L.
PUBLISHED = {
    "muse": ({"hidden_size": 1152, "num_layers": 29, "num_attention_heads": 16, "context_dim": 1280},
             {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20}),
    "coco": ({"hidden_size": 512, "num_layers": 13, "num_attention_heads": 8, "context_dim": 768},
             {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}),
}  # fmt: skip


def folder_of(path, config):
    """Config and tokenizer, and no weights."""
    config.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def transformer_config(name):
    model = PUBLISHED[name][0]
    with torch.device("meta"):
        weights = release_uvit(UViTTransformer2DModel(**model))
    return convert_uvit_state_dict(weights, model["num_attention_heads"], 77)[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_fit(tmp_path, name):
    encoder = TextEncoder.open(folder_of(tmp_path / "clip", CLIPTextConfig(**PUBLISHED[name][1])), RELEASED)
    config = transformer_config(name)
    assert config["context_dim"] == encoder.config.hidden_size and config["context_length"] == 77
    encoder.fit(config)
    (other,) = set(PUBLISHED) - {name}
    with pytest.raises(
        ValueError, match="clip gives states of width .*: name the text encoder that it was trained with"
    ):
        encoder.fit(transformer_config(other))


@pytest.mark.parametrize("kind", ["clip", "bert", "t5"])
def test_every_kind_is_read_whole(tmp_path, kind):
    model = tiny_encoder(kind)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = TextEncoder.open(str(tmp_path), RELEASED, pad_token_id=3)
    encoder.fit({"context_dim": 16, "context_length": 6})
    encoder.load()
    assert encoder.tokenizer.model_max_length == 6
    assert type(encoder.model) is type(model) and not encoder.model.training and encoder.pad_token_id == 3
    assert all(torch.equal(tensor, encoder.model.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_of_a_model_of_images_and_texts_the_part_for_texts(tmp_path, capfd):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(
        text_config=small | {"vocab_size": len(WORDS)}, vision_config=small | {"image_size": 8, "patch_size": 4}
    ))  # fmt: skip
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = TextEncoder.open(str(tmp_path), RELEASED)
    encoder.load()
    ids = torch.tensor([[1, 4, 2]])
    with torch.no_grad():
        expected = whole.eval().text_model(ids).last_hidden_state
        assert torch.equal(encoder.model(ids).last_hidden_state, expected)
    assert "not used: logit_scale, text_projection, vision_model" in "\n".join(encoder.describe())
    assert "UNEXPECTED" not in capfd.readouterr().err


def test_what_the_card_calls_it(tmp_path, monkeypatch):
    config = CLIPTextConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    cached = folder_of(tmp_path / "hub" / "models--laion--CLIP-H" / "snapshots" / "0ab1", config)
    assert TextEncoder.open(cached, RELEASED).title == "laion/CLIP-H"
    monkeypatch.chdir(tmp_path / "hub" / "models--laion--CLIP-H" / "snapshots")
    assert TextEncoder.open("0ab1", RELEASED).title == "laion/CLIP-H"
    assert TextEncoder.open(folder_of(tmp_path / "mine", config), RELEASED).title == "mine"


def wrong(tmp_path, message, name, **changes):
    with pytest.raises(ValueError, match=message) as error:
        encoder = TextEncoder.open(str(name), RELEASED, changes.pop("pad_token_id", None))
        encoder.fit({"context_dim": 16, "context_length": 6} | changes)
        encoder.load()
    assert "\n" not in str(error.value)


def test_what_is_wrong_is_said_in_a_line(tmp_path, monkeypatch):
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bare = folder_of(tmp_path / "bare", CLIPTextConfig(**sizes, max_position_embeddings=16))
    wrong(tmp_path, "takes 16 tokens, but context_length is 17: give --context-length 16", bare, context_length=17)
    wrong(tmp_path, "pad_token_id 12 is no token of .*: they are 0 to 11", bare, pad_token_id=12)
    wrong(tmp_path, "bare cannot be read as a text encoder", bare)  # it has no weights
    vit = ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4))
    vit.save_pretrained(tmp_path / "vit")
    tiny_tokenizer().save_pretrained(tmp_path / "vit")
    wrong(tmp_path, "vit holds a vit, which is no encoder of texts", tmp_path / "vit")
    wrong(tmp_path, "cannot be read as a text encoder with its tokenizer", tmp_path)
    wrong(tmp_path, "neither a folder nor an id on the Hub", "/nowhere/clip")
    tiny_encoder().save_pretrained(tmp_path / "damaged")
    tiny_tokenizer().save_pretrained(tmp_path / "damaged")
    CLIPTextConfig(
        **sizes | {"num_hidden_layers": 3}, intermediate_size=32, max_position_embeddings=16
    ).save_pretrained(tmp_path / "damaged")
    wrong(tmp_path, "damaged lacks 16 tensors of a CLIPTextModel", tmp_path / "damaged")


def test_offline_the_remedy_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weights = release_uvit(UViTTransformer2DModel(
        sample_size=4, codebook_size=48, hidden_size=8, num_layers=1, num_attention_heads=2, context_dim=16
    ))  # fmt: skip
    torch.save(weights, tmp_path / "w.pth")
    (tmp_path / "vqgan.ckpt").write_bytes(b"is not read")
    command = ["convert", "--model", "autonat-text", "--checkpoint", str(tmp_path / "w.pth"), "--num-attention-heads", "2",
               "--vqgan", str(tmp_path / "vqgan.ckpt"), "--output", str(tmp_path / "out"), "--text-encoder"]  # fmt: skip
    with pytest.raises(SystemExit, match="run `hf download nobody/clip-of-nowhere` where there is a network") as error:
        main([*command, "nobody/clip-of-nowhere"])
    assert "\n" not in str(error.value)
    # The width is seen before the tokenizer and the encoder's own weights are read.
    config = CLIPTextConfig(vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(SystemExit, match="clip gives states of width 24, but the checkpoint takes 16"):
        main([*command, folder_of(tmp_path / "clip", config)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "vqgan.ckpt", "w.pth"]
