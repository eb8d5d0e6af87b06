"""What a `VQModel` is used for here: images to tokens, tokens to images, and how many pixels a token stands for.

`VQModel` gives every decoder level one residual block more than MaskGIT's tokenizer has. A converted tokenizer carries
that block with a second convolution of zeros, so that it stays a stock model; computing it would cost decoding time
for nothing, so `skip_padding_blocks` leaves it out.
"""

from __future__ import annotations

import math

import torch
from diffusers import VQModel
from diffusers.models.resnet import ResnetBlock2D


WIDE = 128  # channels


def scale_factor(vqvae: VQModel) -> int:
    """Side in pixels of the square that a token stands for."""
    return 2 ** (len(vqvae.config.block_out_channels) - 1)


@torch.no_grad()
def encode_images(vqvae: VQModel, images: torch.Tensor) -> torch.LongTensor:
    """Images `[B, C, H, W]` in [0, 1] to token ids `[B, h * w]` in raster order."""
    latents = vqvae.encode(images).latents
    return vqvae.quantize(latents)[2][2].view(len(latents), -1)


def decode_tokens(vqvae: VQModel, tokens: torch.LongTensor) -> torch.Tensor:
    """
    Token ids `[B, n * n]` in raster order to images `[B, C, H, W]` in [0, 1].

    Raises:
        ValueError: the images hold NaN. Waits for the device.
    """
    side = math.isqrt(tokens.shape[1])
    shape = (len(tokens), side, side, vqvae.config.vq_embed_dim or vqvae.config.latent_channels)
    images = vqvae.decode(tokens, force_not_quantize=True, shape=shape).sample.clamp(0, 1)
    if images.amin().isnan():
        dtype = str(vqvae.dtype).removeprefix("torch.")
        raise ValueError(
            f"the tokenizer decodes to NaN ({dtype}): its weights are damaged, or values overflow; load it again, or use "
            "float32 or bfloat16."
        )
    return images


class PaddingResnetBlock2D(ResnetBlock2D):
    """
    A residual block that adds zero: without gradients it returns its input.

    Parameters, and so what is saved, are the block's own. It turns into an ordinary block when it is trained or loads
    other weights.
    """

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None, *args, **kwargs) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().forward(input_tensor, temb, *args, **kwargs)
        return input_tensor

    def train(self, mode: bool = True) -> ResnetBlock2D:
        if mode:
            self.__class__ = ResnetBlock2D
        return ResnetBlock2D.train(self, mode)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self.__class__ = ResnetBlock2D
        ResnetBlock2D._load_from_state_dict(self, *args, **kwargs)


def skip_padding_blocks(vqvae: VQModel) -> None:
    """
    Make the blocks of `vqvae`'s decoder that add zero free of cost wherever no gradients are recorded.

    Reads the weights once; call it again after changing them in place. Only the class of these blocks changes, neither
    names nor values of parameters: moving, casting, offloading and `save_pretrained` work as before.
    """
    for block in vqvae.decoder.modules():
        # Weights on the meta device are offloaded and cannot be read; their block stays as it is.
        if type(block) in (ResnetBlock2D, PaddingResnetBlock2D) and not block.conv2.weight.is_meta:
            block.__class__ = PaddingResnetBlock2D if _adds_zero(block) else ResnetBlock2D


def lay_out_decoder(vqvae: VQModel) -> None:
    """
    Put the channels of a wide decoder last in memory, where its convolutions are faster (`benchmarks/step_parts.py`): one of
    MaskGIT's widths or more. A narrow one can be slower so, and stays as it is. Values and names of weights do too.
    """
    if min(vqvae.config.block_out_channels) >= WIDE:
        vqvae.decoder.to(memory_format=torch.channels_last)


def padding_blocks(vqvae: VQModel) -> list[str]:
    """Names, within the decoder, of the blocks that `skip_padding_blocks` found."""
    return [name for name, block in vqvae.decoder.named_modules() if isinstance(block, PaddingResnetBlock2D)]


def _adds_zero(block: ResnetBlock2D) -> bool:
    if block.training or block.conv_shortcut is not None or block.upsample or block.downsample:
        return False
    if block.output_scale_factor != 1.0 or not isinstance(block.conv2, torch.nn.Conv2d):
        return False
    return not any(parameter.any() for parameter in block.conv2.parameters())
