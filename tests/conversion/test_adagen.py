"""AdaGen's and AdaNAT's policies as released files, through the command, back to the authors' numbers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_autonat import AdaptivePolicyModel, AutoNATPipeline
from diffusers_autonat.cli import main
from diffusers_autonat.conversion import convert_policy_state_dict
from diffusers_autonat.conversion.adagen import _MODULES
from tests.conftest import load_reference
from tests.conversion.released import load_policy, load_vqgan, randomise


def release_policy(policy: AdaptivePolicyModel) -> dict[str, torch.Tensor]:
    """Our weights under the authors' names."""
    theirs = {ours: name for name, ours in _MODULES.items()}
    return {
        f"{theirs[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": t for name, t in policy.state_dict().items()
    }


def policy_for(hidden_size: int, **config) -> AdaptivePolicyModel:
    sizes = {"hidden_size": 16, "conv_channels": 8, "mlp_channels": (16, 8), "grid_size": 16}
    return randomise(AdaptivePolicyModel(in_channels=hidden_size, **sizes, **config))


@pytest.fixture
def files(tmp_path):
    """AdaGen's transformer, policies that go with it, and the tokenizer."""
    weights = load_reference("uvit")[0]
    width = weights["token_emb.word_embeddings.weight"].shape[1]
    torch.save(weights, tmp_path / "MaskGIT-L.pth")
    save_file(release_policy(policy_for(width)), tmp_path / "maskgit_policy.safetensors")
    actor, critic = release_policy(policy_for(width)), release_policy(policy_for(width))
    adanat = {f"actor.{n}": t for n, t in actor.items()} | {f"critic.{n}": t for n, t in critic.items()}
    adanat |= {"critic.linear3.weight": torch.zeros(1, 8), "critic.linear3.bias": torch.zeros(1)}
    torch.save(adanat, tmp_path / "adanat.pth")
    torch.save({"state_dict": load_vqgan()[0]}, tmp_path / "vqgan.ckpt")
    torch.save(load_policy(), tmp_path / "other_policy.pth")
    return tmp_path


def convert(files, *args, model="adagen", checkpoint="MaskGIT-L.pth"):
    output = files / "out"
    args = [str(files / one) if (files / one).is_file() else one for one in args]
    main(["convert", "--model", model, "--checkpoint", str(files / checkpoint), "--output", str(output), *args])
    return output


def test_adagen_becomes_a_pipeline_with_its_policy(files, capsys):
    output = convert(
        files, "--vqgan", "vqgan.ckpt", "--policy", "maskgit_policy.safetensors", "--num-attention-heads", "4",
        "--num-inference-steps", "3",
    )  # fmt: skip
    assert "policy: a policy of AdaGen" in capsys.readouterr().out
    pipe = AutoNATPipeline.from_pretrained(output)
    pipe.set_progress_bar_config(disable=True)
    released = load_file(files / "maskgit_policy.safetensors")
    assert release_policy(pipe.policy).keys() == released.keys()
    assert all(torch.equal(tensor, released[name]) for name, tensor in release_policy(pipe.policy).items())
    assert pipe.policy.config.num_inference_steps == 3 and pipe.policy.config.action_smooth == 0.8
    drawn = pipe([0, 1], generator=torch.Generator().manual_seed(0), output_type="latent").images
    assert pipe.num_timesteps == 3 and drawn.max() < 48
    card = (output / "README.md").read_text()
    assert "`policy`" in card and "not the released weights of a policy of AdaGen" in card and "2603.06993" in card
    assert "sets what each of its 3 steps does" in card and card.count("@article{Ni2025AdaGen") == 1


def test_adanat_s_policy_has_no_smoothing_no_critic_and_no_license(files, capsys):
    output = convert(files, "--vqgan", "vqgan.ckpt", "--policy", "adanat.pth", model="autonat")
    out = capsys.readouterr().out
    assert "no tensor shows num_inference_steps=8: assumed" in out and "critic.linear3.bias" in out
    config = json.loads((output / "policy" / "config.json").read_text())
    assert (config["action_smooth"], config["use_heuristic"], config["num_inference_steps"]) == (0.0, False, 8)
    action = AutoNATPipeline.from_pretrained(output).policy(torch.randn(2, 256, config["in_channels"]), 1, None)
    assert torch.equal(action.action, action.raw)
    card = (output / "README.md").read_text()
    assert "By their sizes these are not the released weights of a policy of AdaNAT" in card


def test_the_card_says_that_adanat_names_no_license():
    from diffusers_autonat.conversion.adagen import ADANAT_POLICY

    assert "names no license" in ADANAT_POLICY.origin.license_note and ADANAT_POLICY.origin.license == "other"
    with torch.device("meta"):
        model = AdaptivePolicyModel(num_inference_steps=8)
    config, _ = ADANAT_POLICY.convert({f"actor.{n}": t for n, t in release_policy(model).items()})
    assert ADANAT_POLICY.origin.released(config) and config["use_heuristic"] is False
    with torch.device("meta"):
        model = AdaptivePolicyModel(in_channels=1152, num_inference_steps=8)
    assert ADANAT_POLICY.convert({f"actor.{n}": t for n, t in release_policy(model).items()})[0]["use_heuristic"]


def test_without_a_tokenizer_the_folder_holds_components(files):
    output = convert(files, "--policy", "maskgit_policy.safetensors", "--num-attention-heads", "4")
    assert AdaptivePolicyModel.from_pretrained(output, subfolder="policy").config.num_inference_steps == 16
    assert not (output / "model_index.json").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "other_policy.pth"], "a grid of 16 x 16 features of width 48, and the transformer's is"),
        (["--policy", "vqgan.ckpt"], "VQGAN.*not a policy of AdaGen; it belongs to --vqgan"),
        (["--policy", "MaskGIT-L.pth"], "not a policy of AdaGen; it belongs to --model autonat"),
        (["--vqgan", "maskgit_policy.safetensors"], "holds a policy of AdaGen.*belongs to --policy"),
        (["--num-inference-steps", "4"], "num_inference_steps is no option of AdaGen"),
    ],
)
def test_mistakes_are_named(files, args, message):
    with pytest.raises(SystemExit, match=message):
        convert(files, *args, "--num-attention-heads", "4")
    assert not (files / "out").exists()


def test_a_policy_as_the_transformer(files):
    with pytest.raises(SystemExit, match="holds a policy of AdaNAT, not AdaGen's.*belongs to --policy"):
        convert(files, checkpoint="adanat.pth")


def test_damaged_weights_are_listed():
    weights = load_policy()
    del weights["linear3.bias"]
    weights["dw_conv.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match="(?s)missing: linear3.bias.*shape: dw_conv.bias is"):
        convert_policy_state_dict(weights)
    del weights["pw_conv.weight"]
    with pytest.raises(ValueError, match="missing: pw_conv.weight"):
        convert_policy_state_dict(weights)


def test_the_released_files_have_a_card_with_their_terms(tmp_path):
    """The sizes of the release, without its weights."""
    from diffusers_autonat.conversion.adagen import ADAGEN, ADAGEN_POLICY
    from diffusers_autonat.conversion.checkpoint import Checkpoint
    from diffusers_autonat.conversion.model_card import converted_card

    (tmp_path / "w.pth").write_bytes(b"")
    file = Checkpoint(tmp_path / "w.pth", {}, [])
    sizes = ADAGEN.origin.sizes | {"num_attention_heads": 8}
    policy = ADAGEN_POLICY.origin.sizes | {"in_channels": 768}
    card = converted_card("x", [(ADAGEN, file, sizes), (ADAGEN_POLICY, file, policy)], 1, [], 0)
    assert "license: mit" in card and card.count("MIT license, (c) 2026") == 1 and "nzl-thu/AdaGen_Policies" in card
    assert card.count("@article{Ni2025AdaGen") == 1 and "not the released" not in card
