"""Checkpoints that lie beside those that are converted, so that one passed by mistake is called by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple


class OtherCheckpoint(NamedTuple):
    """
    Args:
        title: As messages call it.
        remedy: What to do instead.
        recognise: Whether a checkpoint with these tensor names is of this kind.
    """

    title: str
    remedy: str
    recognise: Callable[[Collection[str]], bool]


def _holds(*names: str) -> Callable[[Collection[str]], bool]:
    return lambda found: set(names) <= set(found)


def _begins_with(*prefixes: str) -> Callable[[Collection[str]], bool]:
    return lambda found: all(any(name.startswith(prefix) for name in found) for prefix in prefixes)


_CONVERTED = "it is converted already: load its folder with from_pretrained"
_TOKENIZER = "the tokenizer of all models is vqgan_jax_strongaug.ckpt"
_TRANSFORMER = "the transformer is in nnet_ema.pth"

OTHERS = (
    OtherCheckpoint(
        "a transformer of diffusers-autonat", _CONVERTED, _holds("embed.word_embeddings.weight", "head.bias")
    ),
    OtherCheckpoint("a VQModel of diffusers", _CONVERTED, _begins_with("encoder.down_blocks.", "post_quant_conv.")),
    OtherCheckpoint(
        "a VQGAN of taming-transformers", _TOKENIZER, _begins_with("encoder.down.0.", "quantize.", "quant_conv.")
    ),
    OtherCheckpoint(
        "open-muse's copy of MaskGIT's VQGAN",
        _TOKENIZER,
        lambda names: "quantize.embedding.weight" in names and any(".upsample_conv." in name for name in names),
    ),
    OtherCheckpoint("MAGE", _TRANSFORMER, _holds("token_emb.word_embeddings.weight", "decoder_pos_embed_learned")),
    OtherCheckpoint(
        "the Inception network that FID is measured with", _TRANSFORMER, _begins_with("Mixed_5b.", "Mixed_7c.")
    ),
    OtherCheckpoint(
        "the state of an optimizer",
        "the weights are in another file of its folder, nnet_ema.pth",
        lambda names: any(name.split(".")[-1] in ("exp_avg", "exp_avg_sq", "momentum_buffer") for name in names),
    ),
)
