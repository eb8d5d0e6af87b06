"""The next member of the family is one constant: nothing else is told about it."""

import json

import pytest
import torch

import diffusers_autonat.commands.convert as command
import diffusers_autonat.conversion as conversion
import diffusers_autonat.conversion.folder as folder
from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.cli import main
from diffusers_autonat.conversion import SOURCES, convert_uvit_state_dict
from diffusers_autonat.conversion.source_format import Origin, SourceFormat
from tests.conversion.released import randomise, release_uvit


def convert_member(state_dict, num_attention_heads=2, spare_codes=0):
    config, converted = convert_uvit_state_dict(
        {n.removeprefix("net."): t for n, t in state_dict.items()}, num_attention_heads
    )
    return config | {"dropout": spare_codes / 100}, converted


MEMBER = SourceFormat(
    name="member",
    title="the next member",
    component="transformer",
    model_class="diffusers_autonat.models.transformer_uvit.UViTTransformer2DModel",
    recognise=lambda names: "net.norm.weight" in names,
    convert=convert_member,
    describe=lambda config: f"{config['num_layers']} layers",
    agreement="compared with nothing.",
    assumed={"num_attention_heads": 2, "spare_codes": 7},
    origin=Origin(
        "A member", {"hidden_size": 8}, "https://example.com/a/b", {"w.pth": "there"}, "mit", "MIT.", ("@misc{Next}",)
    ),
)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    for module in (command, conversion, folder):
        monkeypatch.setattr(module, "SOURCES", (*SOURCES, MEMBER))
    model = randomise(
        UViTTransformer2DModel(sample_size=3, codebook_size=7, hidden_size=8, num_layers=1, num_attention_heads=2)
    )
    torch.save({f"net.{name}": tensor for name, tensor in release_uvit(model).items()}, tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


def test_it_converts_with_its_own_option_and_card(checkpoint, tmp_path, capsys):
    for args, dropout in ([], 0.07), (["--spare-codes", "3"], 0.03):
        output = tmp_path / f"out{len(args)}"
        main(["convert", "--model", "member", "--checkpoint", checkpoint, "--output", str(output), *args])
        assert json.loads((output / "transformer" / "config.json").read_text())["dropout"] == dropout
    assert "assumed" in capsys.readouterr().out
    card = (output / "README.md").read_text()
    assert "A member, as a diffusers component" in card and "1 layers" in card and "@misc{Next}" in card


def test_it_is_named_to_the_others_and_they_to_it(checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="holds the next member.*belongs to --model member"):
        main(["convert", "--model", "enat", "--checkpoint", checkpoint, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="spare_codes is no option of ENAT"):
        main(
            [
                "convert",
                "--model",
                "enat",
                "--checkpoint",
                checkpoint,
                "--output",
                str(tmp_path / "out"),
                "--spare-codes",
                "1",
            ]
        )
