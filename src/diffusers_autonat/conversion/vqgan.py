"""MaskGIT's VQGAN as MAGE ported it (`vqgan_jax_strongaug.ckpt`), folded exactly into a stock [`~diffusers.VQModel`].

The released tokenizer differs from `VQModel` in five things, all of them linear, so that nothing is lost:

- convolutions without bias get a bias of zeros;
- a residual block that changes its width adds `W h`, a 1x1 convolution of its *own output* h, where `VQModel` adds one
  of its input: `h + W h = (I + W) h` goes into the second convolution, and the stock shortcut is zero;
- 2x2 average pooling is a 3x3 convolution of stride 2 with 1/4 in its upper left corner (`VQModel` pads right and
  below);
- the encoder's last convolution is 1x1, the centre of a 3x3 one; and there is no convolution around the codebook, so
  `VQModel`'s two are the identity;
- a decoder level has one residual block less. `VQModel`'s last one adds zero, and our pipelines do not run it
  ([`~models.tokenizer.skip_padding_blocks`]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .source_format import Origin, SourceFormat
from .state_dict import check_shapes, count_blocks, read_sizes


if TYPE_CHECKING:
    import torch


class _ResidualBlock(NamedTuple):
    released: str
    stock: str
    in_channels: int
    out_channels: int


def _residual_blocks(widths: list[int], num_layers: int) -> list[_ResidualBlock]:
    """All residual blocks of encoder and decoder, by both names. Level 0 is the finest in released decoders."""
    last = len(widths) - 1
    blocks = []
    for side in ("encoder", "decoder"):
        blocks += [
            _ResidualBlock(f"{side}.mid.block_{k + 1}", f"{side}.mid_block.resnets.{k}", widths[last], widths[last])
            for k in range(2)
        ]
    for i, width in enumerate(widths):
        below, above = widths[max(i - 1, 0)], widths[min(i + 1, last)]
        for j in range(num_layers):
            names = f"encoder.down.{i}.block.{j}", f"encoder.down_blocks.{i}.resnets.{j}"
            blocks.append(_ResidualBlock(*names, below if j == 0 else width, width))
            names = f"decoder.up.{i}.block.{j}", f"decoder.up_blocks.{last - i}.resnets.{j}"
            blocks.append(_ResidualBlock(*names, above if j == 0 else width, width))
    return blocks


def convert_vqgan_state_dict(
    state_dict: dict[str, torch.Tensor], grid_size: int = 16
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """
    Config and state dict of a [`~diffusers.VQModel`] that takes and gives images in [0, 1].

    Args:
        state_dict: Released names -> tensors.
        grid_size: Side of the grid of tokens. It is not visible in the tensors and only gives the config's
            `sample_size`.

    Raises:
        ValueError: The weights are of another model, or some tensors are missing, not expected, or misshapen.
    """
    import torch
    from diffusers import VQModel

    ((num_codes, latent_channels),) = read_sizes(state_dict, ["quantize.embedding.weight"], "MaskGIT VQGAN")
    num_levels = count_blocks(state_dict, "encoder.down.")
    num_layers = count_blocks(state_dict, "encoder.down.0.block.")
    conv2 = [f"encoder.down.{i}.block.0.conv2.weight" for i in range(num_levels)]
    ends = ["encoder.conv_in.weight", "decoder.conv_out.weight"]
    wrong = [name for name in [*conv2, *ends] if name not in state_dict or state_dict[name].ndim != 4]
    if wrong or not conv2:
        raise ValueError(f"Not MaskGIT VQGAN weights: {wrong or ['encoder.down']} should be convolutions.")
    widths = [state_dict[name].shape[0] for name in conv2]
    in_channels, out_channels = state_dict[ends[0]].shape[1], state_dict[ends[1]].shape[0]
    config = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "down_block_types": ["DownEncoderBlock2D"] * num_levels,
        "up_block_types": ["UpDecoderBlock2D"] * num_levels,
        "block_out_channels": widths,
        "layers_per_block": num_layers,
        "latent_channels": latent_channels,
        "sample_size": grid_size * 2 ** (num_levels - 1),
        "num_vq_embeddings": num_codes,
        "vq_embed_dim": latent_channels,
        "norm_num_groups": 32,
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
    }
    with torch.device("meta"):
        stock = {name: tuple(tensor.shape) for name, tensor in VQModel(**config).state_dict().items()}

    # Tensors that only change their name, and those that are folded, with their shapes.
    blocks = _residual_blocks(widths, num_layers)
    names = {
        f"{side}.{old}": f"{side}.{new}"
        for side in ("encoder", "decoder")
        for old, new in [
            ("conv_in.weight", "conv_in.weight"),
            ("norm_out.weight", "conv_norm_out.weight"),
            ("norm_out.bias", "conv_norm_out.bias"),
            ("conv_out.bias", "conv_out.bias"),
        ]
    }
    names |= {name: name for name in ("quantize.embedding.weight", "decoder.conv_in.bias", "decoder.conv_out.weight")}
    parts = ("norm1.weight", "norm1.bias", "conv1.weight", "norm2.weight", "norm2.bias", "conv2.weight")
    names |= {f"{block.released}.{part}": f"{block.stock}.{part}" for block in blocks for part in parts}
    names |= {
        f"decoder.up.{i}.upsample.conv.{kind}": f"decoder.up_blocks.{num_levels - 1 - i}.upsamplers.0.conv.{kind}"
        for i in range(1, num_levels)
        for kind in ("weight", "bias")
    }
    shapes = {old: stock[new] for old, new in names.items()}
    shapes["encoder.conv_out.weight"] = (latent_channels, widths[-1], 1, 1)
    shortcuts = {f"{b.released}.nin_shortcut.weight": b for b in blocks if b.in_channels != b.out_channels}
    shapes |= {name: (block.out_channels, block.out_channels, 1, 1) for name, block in shortcuts.items()}
    check_shapes(state_dict, shapes, f"a MaskGIT VQGAN with widths {widths} and {num_layers} blocks per level")

    converted = {name: torch.zeros(shape) for name, shape in stock.items()}
    converted |= {new: state_dict[old].clone() for old, new in names.items()}
    converted["encoder.conv_out.weight"][:, :, 1, 1] = state_dict["encoder.conv_out.weight"][:, :, 0, 0]
    for name in ("quant_conv.weight", "post_quant_conv.weight"):
        converted[name][:, :, 0, 0] = torch.eye(latent_channels)
    for i in range(num_levels - 1):
        pool = converted[f"encoder.down_blocks.{i}.downsamplers.0.conv.weight"]
        pool[:, :, :2, :2] = torch.eye(widths[i])[:, :, None, None] / 4
    for name, block in shortcuts.items():
        shortcut = state_dict[name][:, :, 0, 0].double() + torch.eye(block.out_channels, dtype=torch.float64)
        conv = state_dict[f"{block.released}.conv2.weight"].double()
        converted[f"{block.stock}.conv2.weight"] = torch.einsum("om,mikl->oikl", shortcut, conv).float()
    for level in range(num_levels):
        # The padding block is the one before it but for its second convolution: it adds zero, and can be trained.
        before, padding = (f"decoder.up_blocks.{level}.resnets.{num_layers - k}" for k in (1, 0))
        for part in parts[:5] if num_layers > 1 else ():
            converted[f"{padding}.{part}"] = converted[f"{before}.{part}"].clone()
    return config, converted


def _describe(config: dict[str, Any]) -> str:
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    return f"{config['num_vq_embeddings']} codes of width {config['vq_embed_dim']}, one for {factor} x {factor} pixels"


VQGAN = SourceFormat(
    name="vqgan",
    title="MaskGIT's VQGAN",
    component="vqvae",
    model_class="diffusers.VQModel",
    recognise=lambda names: {"quantize.embedding.weight", "encoder.conv_in.weight"} <= set(names),
    convert=convert_vqgan_state_dict,
    describe=_describe,
    agreement=(
        "layers are folded into those of a stock `diffusers.VQModel`. Codes are equal, latents agree to 2e-5 of the largest "
        "value, and images to 1e-4."
    ),
    origin=Origin(
        description="MaskGIT's tokenizer for ImageNet, as MAGE ported it",
        sizes={"block_out_channels": [128, 128, 256, 256, 512], "num_vq_embeddings": 1024, "latent_channels": 256},
        code="https://github.com/LTH14/mage",
        files={"vqgan_jax_strongaug.ckpt": "linked in the README of https://github.com/LeapLabTHU/ImprovedNAT"},
        license="mit",
        license_note="The tokenizer comes from MaskGIT (Apache-2.0) by way of MAGE (MIT).",
        papers=(
            """@inproceedings{Chang2022MaskGIT,
  title     = {MaskGIT: Masked Generative Image Transformer},
  author    = {Huiwen Chang and Han Zhang and Lu Jiang and Ce Liu and William T. Freeman},
  booktitle = {CVPR},
  year      = {2022}
}""",
            """@inproceedings{Li2023MAGE,
  title     = {MAGE: MAsked Generative Encoder to Unify Representation Learning and Image Synthesis},
  author    = {Tianhong Li and Huiwen Chang and Shlok Mishra and Han Zhang and Dina Katabi and Dilip Krishnan},
  booktitle = {CVPR},
  year      = {2023}
}""",
        ),
    ),
)
