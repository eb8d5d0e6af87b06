"""Released policies (AdaGen's `maskgit_policy.pth`, AdaNAT's actor and critic) for [`AdaptivePolicyModel`], and AdaGen's U-ViT."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .source_format import Origin, SourceFormat
from .state_dict import read_sizes, rename, without
from .uvit import ADANAT_PAPER, AUTONAT


if TYPE_CHECKING:
    import torch


_MODULES = {
    "x_embedder": "proj_in",
    "t_embedder.mlp.0": "time_embed.linear_1",
    "t_embedder.mlp.2": "time_embed.linear_2",
    "adaLN1.adaLN_modulation.1": "norm_in.modulation",
    "dw_conv": "depthwise_conv",
    "pw_conv": "pointwise_conv",
    "linear1": "linear_1",
    "adaLN2.adaLN_modulation.1": "norm_1.modulation",
    "linear2": "linear_2",
    "adaLN3.adaLN_modulation.1": "norm_2.modulation",
    "linear3": "proj_out",
}


def convert_policy_state_dict(
    state_dict: dict[str, torch.Tensor], num_inference_steps: int = 16, **config: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """
    Config and state dict of [`AdaptivePolicyModel`] from AdaGen's names.

    Args:
        state_dict: The authors' names -> tensors.
        num_inference_steps: Not visible in any tensor: the steps that the policy was trained for. 16 in AdaGen's MaskGIT.
        config: What else no tensor shows, as the model calls it; its defaults are AdaGen's.

    Raises:
        ValueError: The weights are of another model, or some tensors are missing, not expected, or misshapen.
    """
    import torch

    from ..models.policy_adaptive import AdaptivePolicyModel

    linear1, linear2, modulation = read_sizes(
        state_dict, ["linear1.weight", "linear2.weight", "adaLN1.adaLN_modulation.1.weight"], "policy"
    )
    hidden_size, conv_channels = modulation[1], len(state_dict.get("pw_conv.weight", torch.empty(1)))
    in_channels = state_dict["x_embedder.weight"].shape[-1] if "x_embedder.weight" in state_dict else hidden_size
    config = {
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "conv_channels": conv_channels,
        "mlp_channels": [linear1[0], linear2[0]],
        # The convolution halves it. An odd side would look the same, and all that was released is even.
        "grid_size": 2 * round((linear1[1] / conv_channels) ** 0.5),
        "num_inference_steps": num_inference_steps,
        **config,
    }
    with torch.device("meta"):
        model = AdaptivePolicyModel(**config)
    names = {
        f"{old}.{kind}": [f"{new}.{kind}"]
        for old, new in _MODULES.items()
        for kind in ("weight", "bias")
        if f"{new}.{kind}" in model.state_dict()
    }
    return config, rename(state_dict, model, names, {}, f"a policy with {config}")


def convert_adanat_policy_state_dict(
    state_dict: dict[str, torch.Tensor], num_inference_steps: int = 8
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """
    As `convert_policy_state_dict`, from AdaNAT's names, whose actor is the policy. Its actions are not smoothed.

    The commands in AdaNAT's README add the heuristic for CC3M, whose features have a width of 1152, and not for ImageNet; no
    tensor shows it.
    """
    actor = {n.removeprefix("actor."): t for n, t in without(state_dict, _UNUSED).items()}
    with_heuristic = "x_embedder.weight" in actor and actor["x_embedder.weight"].shape[-1] == 1152
    return convert_policy_state_dict(actor, num_inference_steps, action_smooth=0.0, use_heuristic=with_heuristic)


_UNUSED = ("critic.*",)


def _is_policy(prefix: str, names: Collection[str]) -> bool:
    return {f"{prefix}adaLN1.adaLN_modulation.1.weight", f"{prefix}dw_conv.weight"} <= set(names)


def _describe(config: dict[str, Any]) -> str:
    side = config["grid_size"]
    added = "added to the heuristic" if config.get("use_heuristic", True) else "without a heuristic"
    smooth = config.get("action_smooth", 0.8)
    return (
        f"{side} x {side} features of width {config['in_channels']}, {config['num_inference_steps']} steps, "
        f"{added}, {f'smoothed by {smooth}' if smooth else 'not smoothed'}"
    )


_ADAGEN_PAPER = """@article{Ni2025AdaGen,
  title   = {AdaGen: Learning Adaptive Policy for Image Synthesis},
  author  = {Zanlin Ni and Yulin Wang and Yeguo Hua and Renping Zhou and Jiayi Guo and Jun Song and Bo Zheng and Gao Huang},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year    = {2025},
  note    = {arXiv:2603.06993}
}"""
_SIZES = {"hidden_size": 512, "conv_channels": 128, "mlp_channels": [1024, 512], "grid_size": 16}
_AGREEMENT = "tensors are renamed. The parameters of every step of a recorded run agree to 1e-5."
_MIT = "The repository of the code is under the MIT license, (c) 2026 LeapLabTHU."

ADAGEN = replace(
    AUTONAT,
    name="adagen",
    title="AdaGen's class-conditional U-ViT",
    origin=Origin(
        description="The class-conditional masked-token transformer of AdaGen, trained on ImageNet by its authors",
        sizes=AUTONAT.origin.sizes,
        code="https://github.com/LeapLabTHU/AdaGen",
        files={
            "MaskGIT-L.pth": "in the Hub repository [nzl-thu/MaskGIT-L](https://huggingface.co/nzl-thu/MaskGIT-L), named in "
            "the README of the code"
        },
        license="mit",
        license_note=_MIT,
        papers=(_ADAGEN_PAPER,),
    ),
)

ADAGEN_POLICY = SourceFormat(
    name="adagen-policy",
    title="a policy of AdaGen",
    component="policy",
    model_class="diffusers_autonat.models.policy_adaptive.AdaptivePolicyModel",
    recognise=lambda names: _is_policy("", names),
    convert=convert_policy_state_dict,
    describe=_describe,
    agreement=_AGREEMENT,
    assumed={"num_inference_steps": 16},
    origin=Origin(
        description="A policy of AdaGen, trained by its authors",
        sizes=_SIZES | {"num_inference_steps": 16},
        code="https://github.com/LeapLabTHU/AdaGen",
        files={
            "maskgit_policy.pth": "in the Hub repository "
            "[nzl-thu/AdaGen_Policies](https://huggingface.co/nzl-thu/AdaGen_Policies), named in the README of the code"
        },
        license="mit",
        license_note=_MIT,
        papers=(_ADAGEN_PAPER,),
    ),
)

ADANAT_POLICY = SourceFormat(
    name="adanat-policy",
    title="a policy of AdaNAT",
    component="policy",
    model_class="diffusers_autonat.models.policy_adaptive.AdaptivePolicyModel",
    recognise=lambda names: _is_policy("actor.", names),
    convert=convert_adanat_policy_state_dict,
    describe=_describe,
    agreement=f"{_AGREEMENT} The critic, which only training needs, is left out.",
    unused=_UNUSED,
    assumed={"num_inference_steps": 8},
    origin=Origin(
        description="A policy of AdaNAT, trained by its authors",
        sizes=_SIZES | {"num_inference_steps": 8},
        code="https://github.com/LeapLabTHU/AdaNAT",
        files={"the policy network": "linked in the README of the code, under Pre-trained Model & Evaluation"},
        license="other",
        license_note=(
            "The repository of AdaNAT names no license: ask its authors before you share its policy, or anything made of it."
        ),
        papers=(ADANAT_PAPER,),
    ),
)
