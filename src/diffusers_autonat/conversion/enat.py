"""Released ENAT weights (`nnet_ema.pth`) for [`ENATTransformer2DModel`]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .source_format import Origin, SourceFormat
from .state_dict import count_blocks, grid_size, read_sizes, rename, without


if TYPE_CHECKING:
    import torch

    from ..strategies import GenerationStrategy


# Released name -> our name.
_MODULES = {
    "x_embedder.word_embeddings": "embed.word_embeddings",
    "x_embedder.position_embeddings": "embed.position_embeddings",
    "x_embedder.LayerNorm": "embed.norm",
    "y_embedder.embedding_table": "embed.class_embeddings",
    "prev_proj.norm": "reuse_proj.norm",
    "prev_proj.mlp.fc1": "reuse_proj.ff.net.0.proj",
    "prev_proj.mlp.fc2": "reuse_proj.ff.net.2",
    "norm": "head.norm_in",
    "mlm_layer.fc": "head.dense",
    "mlm_layer.ln": "head.norm_out",
    "mlm_layer": "head",
}
_BLOCK = {
    "attn.q": ["attn.to_q"],
    "attn.kv.A": ["attn.add_k_proj", "attn.add_v_proj"],
    "attn.kv.B": ["attn.to_k", "attn.to_v"],
    "attn.proj": ["attn.to_out"],
    "mlp.fc1": ["ff.net.0.proj"],
    "mlp.fc2": ["ff.net.2"],
    "adaLN_modulation.1": ["modulation"],
}
_UNUSED = ("*position_ids", "prev_embedder.*")


def convert_enat_state_dict(
    state_dict: dict[str, torch.Tensor], num_attention_heads: int = 16, num_decoder_layers: int = 2
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """
    Config and state dict of [`ENATTransformer2DModel`] from the authors' state dict.

    Args:
        state_dict:
            The authors' names -> tensors. `prev_embedder`, which the authors' model never uses, and `position_ids`
            buffers are dropped.
        num_attention_heads: Not visible in any tensor. 16 in ENAT-L.
        num_decoder_layers: Not visible either: the last this many of the equal blocks are the decoder. 2 in ENAT-L.

    Raises:
        ValueError: The weights are of another model, or some tensors are missing, not expected, or misshapen.
    """
    state_dict = without(state_dict, _UNUSED)
    words, positions, classes, fc1 = read_sizes(
        state_dict,
        [
            "x_embedder.word_embeddings.weight",
            "x_embedder.position_embeddings.weight",
            "y_embedder.embedding_table.weight",
            "blocks.0.mlp.fc1.weight",
        ],
        "ENAT",
    )
    num_blocks = count_blocks(state_dict, "blocks.")
    num_encoder_layers = num_blocks - num_decoder_layers
    if num_encoder_layers < 1 or num_decoder_layers < 1:
        raise ValueError(
            f"num_decoder_layers={num_decoder_layers} leaves no encoder and decoder of {num_blocks} blocks."
        )
    config = {
        "sample_size": grid_size(positions[0]),
        "codebook_size": words[0] - 1,
        "hidden_size": words[1],
        "num_encoder_layers": num_encoder_layers,
        "num_decoder_layers": num_decoder_layers,
        "num_attention_heads": num_attention_heads,
        "mlp_ratio": fc1[0] / words[1],
        "num_classes": classes[0] - 1,
    }

    renamed = {old: [new] for old, new in _MODULES.items()}
    for i in range(num_blocks):
        ours = f"encoder_blocks.{i}" if i < num_encoder_layers else f"decoder_blocks.{i - num_encoder_layers}"
        renamed |= {f"blocks.{i}.{old}": [f"{ours}.{new}" for new in parts] for old, parts in _BLOCK.items()}

    import torch

    from ..models.transformer_enat import ENATTransformer2DModel

    with torch.device("meta"):
        model = ENATTransformer2DModel(**config)
    names = {
        f"{old}.{kind}": [f"{new}.{kind}" for new in parts]
        for old, parts in renamed.items()
        for kind in ("weight", "bias")
        if f"{parts[0]}.{kind}" in model.state_dict()
    }
    shapes = {"mlm_layer.bias": (1, 1, words[0])}
    return config, rename(state_dict, model, names, shapes, f"an ENAT with {config}")


def _strategies(config: dict[str, Any]) -> list[GenerationStrategy]:
    """The hand-made schedule that the authors evaluate their models with; it differs between 256 and 512 px."""
    from ..strategies import GenerationStrategy

    if config["sample_size"] <= 16:
        return [GenerationStrategy.enat(8)]
    return [GenerationStrategy.enat(8, sampling_temperature=4.0, guidance_scale=3.5)]


def _describe(config: dict[str, Any]) -> str:
    side, heads = config["sample_size"], config["num_attention_heads"]
    return (
        f"{side} x {side} tokens of {config['codebook_size']} codes, {config['num_classes']} classes, "
        f"{config['num_encoder_layers']} encoder and {config['num_decoder_layers']} decoder blocks, {heads} heads"
    )


ENAT = SourceFormat(
    name="enat",
    title="ENAT",
    component="transformer",
    model_class="diffusers_autonat.models.transformer_enat.ENATTransformer2DModel",
    recognise=lambda names: {"x_embedder.word_embeddings.weight", "y_embedder.embedding_table.weight"} <= set(names),
    convert=convert_enat_state_dict,
    describe=_describe,
    agreement=(
        "tensors are renamed and split. Logits and features, with and without reuse, agree to 2e-5 of the largest value, "
        "and the tokens of every step of a recorded run are equal."
    ),
    unused=_UNUSED,
    assumed={"num_attention_heads": 16, "num_decoder_layers": 2},
    strategies=_strategies,
    origin=Origin(
        description="The class-conditional masked-token transformer of ENAT, trained on ImageNet by its authors",
        sizes={
            "codebook_size": 1024,
            "hidden_size": 1024,
            "num_encoder_layers": 22,
            "num_decoder_layers": 2,
            "num_classes": 1000,
        },  # fmt: skip
        code="https://github.com/LeapLabTHU/ENAT",
        files={"nnet_ema.pth, nnet_ema_512.pth": "linked in the README of the code, under Pre-trained Model"},
        license="other",
        license_note="The repository that publishes the weights states no license; ask its authors.",
        papers=(
            """@inproceedings{Ni2024ENAT,
  title     = {ENAT: Rethinking Spatial-temporal Interactions in Token-based Image Synthesis},
  author    = {Zanlin Ni and Yulin Wang and Renping Zhou and Yizeng Han and Jiayi Guo and Zhiyuan Liu and Yuan Yao and
               Gao Huang},
  booktitle = {NeurIPS},
  year      = {2024}
}""",
        ),
    ),
)
