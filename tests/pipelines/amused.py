"""A small random aMUSEd, with 8 x 8 tokens of 16 codes as 32 x 32 grey pixels, and eight tokens of text."""

import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.conftest import tiny_vqvae
from tests.pipelines.text_encoders import WORDS, tiny_tokenizer


def tiny_amused() -> AmusedPipeline:
    torch.manual_seed(0)
    transformer = UVit2DModel(
        hidden_size=16, cond_embed_dim=8, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=16,
        vocab_size=24, codebook_size=16, in_channels=8, block_out_channels=8, num_res_blocks=1, downsample=True,
        upsample=True, block_num_heads=1, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, sample_size=8,
    ).eval()  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, projection_dim=8, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 8
    pipe = AmusedPipeline(
        tiny_vqvae(), tokenizer, CLIPTextModelWithProjection(config).eval(), transformer, AmusedScheduler(23)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
