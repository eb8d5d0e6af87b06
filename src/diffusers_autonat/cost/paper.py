"""The cost columns of the AutoNAT paper (arXiv:2406.05478), computed again from our models."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from diffusers import VQModel

from ..models.transformer_enat import ENATTransformer2DModel
from ..models.transformer_uvit import UViTTransformer2DModel
from ..strategies import GenerationStrategy
from .counting import PipelineCost, pipeline_cost


# MaskGIT's tokenizer. Its decoder has two residual blocks per level, which are `VQModel`'s with one layer per block.
TOKENIZER = {
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "block_out_channels": [128, 128, 256, 256, 512],
    "layers_per_block": 1,
    "latent_channels": 256,
    "num_vq_embeddings": 1024,
    "mid_block_add_attention": False,
}
SMALL = {"hidden_size": 512, "num_layers": 13}
LARGE: dict[str, int] = {}  # what the defaults of the model are
PIXELS_512 = {"sample_size": 32, "patch_size": 2}
MUSE = {"hidden_size": 1152, "num_layers": 29, "num_attention_heads": 16, "context_dim": 1280}
# The strategy released for AutoNAT-L with T = 8 does not guide its first three steps.
RELEASED = GenerationStrategy.cosine(8).to_dict() | {"guidance_scales": [0.0] * 3 + [1.0] * 5}


@dataclass(frozen=True)
class PaperRow:
    """
    Args:
        table: Of the paper; empty if the row stands beside them.
        model: As the paper calls it. pixels: Side of the images.
        parameters: Of the transformer, counted.
        cost: With `num_inference_steps` steps, all of them guided or none.
        printed_parameters, printed_cost: The paper's, in millions and in 10^12; None where it has no such row.
    """

    table: str
    model: str
    pixels: int
    parameters: int
    cost: PipelineCost
    printed_parameters: int | None = None
    printed_cost: float | None = None

    @property
    def agrees(self) -> bool:
        """Equal to the printed cost after rounding to its one digit."""
        return self.printed_cost is None or round(self.cost.total_without_attention / 1e12, 1) == self.printed_cost


def paper_rows() -> list[PaperRow]:
    """Tables 3, 4 and 5 as far as they are this family's, and ENAT-L and the released strategy beside them."""
    with torch.device("meta"):
        vqvae = VQModel(**TOKENIZER)

    def rows(table, model, config, *columns, model_class=UViTTransformer2DModel, printed_parameters=None):
        with torch.device("meta"):
            transformer = model_class(**config)
        pipeline = SimpleNamespace(transformer=transformer, vqvae=vqvae)
        pixels, parameters = 16 * transformer.config.sample_size, transformer.num_parameters()
        return [
            PaperRow(table, model, pixels, parameters, pipeline_cost(pipeline, strategy), printed_parameters, printed)
            for strategy, printed in columns
        ]

    def guided(steps: int) -> GenerationStrategy:
        return GenerationStrategy.cosine(steps)

    unguided = GenerationStrategy.cosine(12, guidance_scale=0.0)
    released = GenerationStrategy.from_dict(RELEASED)
    return [
        *rows("3", "AutoNAT-S", SMALL, (guided(4), 0.2), (guided(8), 0.3), printed_parameters=46),
        *rows("3", "AutoNAT-L", LARGE, (unguided, 0.7), (guided(4), 0.5), (guided(8), 0.9), printed_parameters=194),
        *rows("3", "AutoNAT-S", SMALL | PIXELS_512, (guided(4), 0.5), (guided(8), 0.6), printed_parameters=48),
        *rows(
            "3", "AutoNAT-L", PIXELS_512, (unguided, 1.0), (guided(4), 0.8), (guided(8), 1.2), printed_parameters=199
        ),
        *rows("4", "AutoNAT-S, text", SMALL | {"context_dim": 768}, (guided(8), 0.3), printed_parameters=45),
        # The table has 8 and 16 steps of Muse; AutoNAT-Muse is the same model with 8 steps of another strategy.
        *rows("5", "Muse", MUSE, (guided(8), 2.8), (guided(16), 5.4), printed_parameters=500),
        *rows("", "AutoNAT-L, released strategy", LARGE, (released, None)),
        *rows("", "ENAT-L", {}, (GenerationStrategy.enat(8), None), model_class=ENATTransformer2DModel),
    ]
