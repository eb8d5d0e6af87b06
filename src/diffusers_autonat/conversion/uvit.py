"""Released U-ViT weights (AutoNAT's and AdaNAT's `nnet_ema.pth`) for [`UViTTransformer2DModel`]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .source_format import Origin, ReleasedTextEncoder, SourceFormat
from .state_dict import count_blocks, grid_size, read_sizes, rename, without


if TYPE_CHECKING:
    import torch


# Released name -> our name. Patches of tokens (the paper's 512 px models) have none: the authors' code has no such layer.
_EMBED = {
    "token_emb.word_embeddings": "embed.word_embeddings",
    "token_emb.position_embeddings": "embed.position_embeddings",
    "token_emb.LayerNorm": "embed.norm",
}
_CLASS = {
    "context_embed.word_embeddings": "embed.class_embeddings",
    "context_embed.position_embeddings": "embed.class_position_embeddings",
    "context_embed.LayerNorm": "embed.class_norm",
}
_TEXT = {"context_embed": "embed.context_proj"}
_HEAD = {"norm": "head.norm_in", "mlm_layer.fc": "head.dense", "mlm_layer.ln": "head.norm_out", "mlm_layer": "head"}
_BLOCK = {
    "norm1": ["norm1"],
    "attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "attn.proj": ["attn.to_out"],
    "norm2": ["norm2"],
    "mlp.fc1": ["ff.net.0.proj"],
    "mlp.fc2": ["ff.net.2"],
    "skip_linear": ["skip_linear"],
}
_UNUSED = ("*position_ids",)


def convert_uvit_state_dict(
    state_dict: dict[str, torch.Tensor], num_attention_heads: int = 8, context_length: int = 77
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """
    Config and state dict of [`UViTTransformer2DModel`] from the authors' state dict.

    Sizes and the kind of condition are read off the tensors. The patch size is 1, as in all that was released.

    Args:
        state_dict: The authors' names -> tensors. `position_ids` buffers are dropped.
        num_attention_heads: Not visible in any tensor. 8 in AutoNAT-S and -L, 16 in AutoNAT-Muse.
        context_length: Not visible either: number of text states, if conditioned on text.

    Raises:
        ValueError: The weights are of another model, or some tensors are missing, not expected, or misshapen.
    """
    state_dict = without(state_dict, _UNUSED)
    words, positions, fc1 = read_sizes(
        state_dict,
        ["token_emb.word_embeddings.weight", "token_emb.position_embeddings.weight", "mid_block.mlp.fc1.weight"],
        "U-ViT",
    )
    hidden_size = words[1]
    num_outer = max(count_blocks(state_dict, "in_blocks."), count_blocks(state_dict, "out_blocks."))
    config: dict[str, Any] = {
        "sample_size": grid_size(positions[0]),
        "patch_size": 1,
        "codebook_size": words[0] - 1,
        "hidden_size": hidden_size,
        "num_layers": 2 * num_outer + 1,
        "num_attention_heads": num_attention_heads,
        "mlp_ratio": fc1[0] / hidden_size,
    }
    modules = {**_EMBED, **_HEAD}
    if "context_embed.weight" in state_dict:
        config["context_dim"] = read_sizes(state_dict, ["context_embed.weight"], "U-ViT")[0][1]
        config["context_length"] = context_length
        modules |= _TEXT
    else:
        config["num_classes"] = read_sizes(state_dict, ["context_embed.word_embeddings.weight"], "U-ViT")[0][0] - 1
        modules |= _CLASS

    renamed = {old: [new] for old, new in modules.items()}
    blocks = ["mid_block", *(f"{side}_blocks.{i}" for side in ("in", "out") for i in range(num_outer))]
    renamed |= {
        f"{block}.{old}": [f"{block}.{new}" for new in parts] for block in blocks for old, parts in _BLOCK.items()
    }

    import torch

    from ..models.transformer_uvit import UViTTransformer2DModel

    with torch.device("meta"):
        model = UViTTransformer2DModel(**config)
    names = {
        f"{old}.{kind}": [f"{new}.{kind}" for new in parts]
        for old, parts in renamed.items()
        for kind in ("weight", "bias")
        if f"{parts[0]}.{kind}" in model.state_dict()
    }
    shapes = {"mlm_layer.bias": (1, 1, words[0])}
    return config, rename(state_dict, model, names, shapes, f"a U-ViT with {config}")


def _describe(config: dict[str, Any]) -> str:
    if "context_dim" in config:
        condition = f"{config['context_length']} text states of width {config['context_dim']}"
    else:
        condition = f"{config['num_classes']} classes"
    side, blocks, heads = config["sample_size"], config["num_layers"], config["num_attention_heads"]
    return f"{side} x {side} tokens of {config['codebook_size']} codes, {condition}, {blocks} blocks, {heads} heads"


_AUTONAT_PAPER = """@inproceedings{Ni2024AutoNAT,
  title     = {Revisiting Non-Autoregressive Transformers for Efficient Image Synthesis},
  author    = {Zanlin Ni and Yulin Wang and Renping Zhou and Jiayi Guo and Jinyi Hu and Zhiyuan Liu and Shiji Song and
               Yuan Yao and Gao Huang},
  booktitle = {CVPR},
  year      = {2024}
}"""

# The weights of AutoNAT-Muse were published with this one.
ADANAT_PAPER = """@inproceedings{Ni2024AdaNAT,
  title     = {AdaNAT: Exploring Adaptive Policy for Token-Based Image Generation},
  author    = {Zanlin Ni and Yulin Wang and Renping Zhou and Rui Lu and Jiayi Guo and Jinyi Hu and Zhiyuan Liu and
               Yuan Yao and Gao Huang},
  booktitle = {ECCV},
  year      = {2024}
}"""

AUTONAT = SourceFormat(
    name="autonat",
    title="AutoNAT's class-conditional U-ViT",
    component="transformer",
    model_class="diffusers_autonat.models.transformer_uvit.UViTTransformer2DModel",
    recognise=lambda names: {"token_emb.word_embeddings.weight", "context_embed.word_embeddings.weight"} <= set(names),
    convert=convert_uvit_state_dict,
    describe=_describe,
    agreement=(
        "tensors are renamed and split. Logits agree to 2e-5 of the largest value, and the tokens of every step of a "
        "recorded run are equal."
    ),
    unused=_UNUSED,
    assumed={"num_attention_heads": 8},
    origin=Origin(
        description="A class-conditional masked-token transformer of AutoNAT, trained on ImageNet by its authors",
        sizes={"sample_size": 16, "codebook_size": 1024, "hidden_size": 768, "num_layers": 25, "num_classes": 1000},
        code="https://github.com/LeapLabTHU/ImprovedNAT",
        files={
            "nnet_ema.pth": "AutoNAT-L, 256 px: linked in the README of the code, under Pre-trained Model",
            "AutoNAT_L-T8_strategy.yaml": "in the code, folder `configs`",
        },
        license="mit",
        license_note="The repository that publishes the weights is under the MIT license, (c) 2024 LeapLabTHU.",
        papers=(_AUTONAT_PAPER,),
    ),
)

AUTONAT_TEXT = SourceFormat(
    name="autonat-text",
    title="AutoNAT's text-conditional U-ViT",
    component="transformer",
    model_class="diffusers_autonat.models.transformer_uvit.UViTTransformer2DModel",
    recognise=lambda names: {"token_emb.word_embeddings.weight", "context_embed.weight"} <= set(names),
    convert=convert_uvit_state_dict,
    describe=_describe,
    agreement="tensors are renamed and split. Logits agree to 2e-5 of the largest value.",
    unused=_UNUSED,
    assumed={"num_attention_heads": 16, "context_length": 77},
    text_encoder=ReleasedTextEncoder("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", pad_token_id=0),
    origin=Origin(
        description=(
            "The masked-token transformer of AutoNAT-Muse, trained on CC3M by its authors. It is conditioned on the "
            "last hidden states of `laion/CLIP-ViT-bigG-14-laion2B-39B-b160k` (pad token id 0; the empty text is the "
            "null condition)"
        ),
        sizes={"sample_size": 16, "codebook_size": 1024, "hidden_size": 1152, "num_layers": 29, "context_dim": 1280},
        code="https://github.com/LeapLabTHU/AdaNAT",
        files={
            "assets/ckpts/cc3m-285000.ckpt/nnet_ema.pth": "in the Hub repository "
            "[nzl-thu/MUSE](https://huggingface.co/nzl-thu/MUSE), named in the README of the code"
        },
        license="other",
        license_note=(
            "The terms are those of the Hub repository `nzl-thu/MUSE`; look there before you use the weights. The "
            "repository of their code states no license."
        ),
        papers=(_AUTONAT_PAPER, ADANAT_PAPER),
    ),
)
