"""The AutoNAT U-ViT: a ViT over masked image tokens with long skip connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin, FeedForward
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput

from .attention import attend
from .conditions import check_condition
from .sizes import check_sizes


@dataclass
class UViTTransformer2DModelOutput(BaseOutput):
    """
    Output of [`UViTTransformer2DModel`].

    Args:
        sample (`torch.Tensor` of shape `(batch_size, sample_size**2, codebook_size)`):
            Logits of the codebook entries at every position, known positions included.
        cache (`None`):
            Always `None`: every call sees all tokens. It is here because ENAT's output has one, so that a pipeline
            can hand `output.cache` to the next call of either model.
        features (`torch.Tensor` of shape `(batch_size, (sample_size / patch_size)**2, hidden_size)`, *optional*):
            What the logits are made of: the tokens' (or patches') features after the final norm, which a policy looks at.
    """

    sample: torch.Tensor
    cache: None = None
    features: torch.Tensor | None = None


class UViTEmbedding(nn.Module):
    """
    Input sequence: the condition in front, then the image tokens.

    Image tokens are a codebook embedding plus a learned position, normalised. A class is one more such token with its
    own tables; text states go through a linear layer and get no position. With `patch_size > 1` the tokens of a patch
    are concatenated (row by row) and mapped to one vector.
    """

    def __init__(
        self,
        sample_size: int,
        patch_size: int,
        codebook_size: int,
        hidden_size: int,
        num_classes: int,
        context_dim: int | None,
        dropout: float,
    ):
        super().__init__()
        self.sample_size = sample_size
        self.patch_size = patch_size

        self.word_embeddings = nn.Embedding(codebook_size + 1, hidden_size)
        self.position_embeddings = nn.Embedding(sample_size**2, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

        if context_dim is None:
            self.class_embeddings = nn.Embedding(num_classes + 1, hidden_size)
            self.class_position_embeddings = nn.Embedding(1, hidden_size)
            self.class_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        else:
            self.context_proj = nn.Linear(context_dim, hidden_size)
        if patch_size > 1:
            self.patch_proj = nn.Linear(patch_size**2 * hidden_size, hidden_size)

    def patchify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        side, patch = self.sample_size // self.patch_size, self.patch_size
        hidden_states = hidden_states.unflatten(1, (side, patch, side, patch))  # [B, S, p, S, p, D]
        return hidden_states.transpose(2, 3).flatten(3).flatten(1, 2)  # [B, S*S, p*p*D]

    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # [N]
        tokens = self.word_embeddings(input_ids) + self.position_embeddings(positions)  # [B, N, D]
        tokens = self.dropout(self.norm(tokens))  # [B, N, D]
        if self.patch_size > 1:
            tokens = self.patch_proj(self.patchify(tokens))  # [B, N/p^2, D]

        if encoder_hidden_states is None:
            class_tokens = self.class_embeddings(class_labels).unsqueeze(1)  # [B, 1, D]
            context = self.class_norm(class_tokens + self.class_position_embeddings(positions[:1]))  # [B, 1, D]
        else:
            context = self.context_proj(encoder_hidden_states)  # [B, L, D]
        return torch.cat([context, tokens], dim=1)  # [B, L + N/p^2, D]


class UViTAttnProcessor:
    """Self-attention through diffusers' attention dispatcher, so that every registered backend can be used."""

    _attention_backend = None
    _parallel_config = None

    def __call__(self, attn: UViTAttention, hidden_states: torch.Tensor) -> torch.Tensor:
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)  # [B, L, D] each
        else:
            query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)

        return attn.to_out(attend(self, query, key, value, attn.heads))  # [B, L, D]


class UViTAttention(nn.Module, AttentionModuleMixin):
    """Multi-head self-attention; query, key and value projections carry no bias."""

    _default_processor_cls = UViTAttnProcessor
    _available_processors = [UViTAttnProcessor]

    def __init__(self, hidden_size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.use_bias = False  # read by `fuse_projections`
        self.to_q = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_k = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_v = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_out = nn.Linear(hidden_size, hidden_size)
        self.set_processor(self._default_processor_cls())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.processor(self, hidden_states)


class UViTBlock(nn.Module):
    """
    A pre-norm ViT block. With `skip`, it first joins the output of its mirror block: `linear([x, skip])`. The join
    belongs to the block so that a model split over devices brings both tensors to the block's device.
    """

    def __init__(self, hidden_size: int, heads: int, mlp_ratio: float, skip: bool):
        super().__init__()
        self.skip_linear = nn.Linear(2 * hidden_size, hidden_size) if skip else None
        self.norm1 = nn.LayerNorm(hidden_size)
        self.attn = UViTAttention(hidden_size, heads)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.ff = FeedForward(hidden_size, inner_dim=round(hidden_size * mlp_ratio), activation_fn="gelu")

    def forward(self, hidden_states: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        if self.skip_linear is not None:
            hidden_states = self.skip_linear(torch.cat([hidden_states, skip], dim=-1))  # [B, L, 2D] -> [B, L, D]
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states))  # [B, L, D]
        return hidden_states + self.ff(self.norm2(hidden_states))  # [B, L, D]


class UViTHead(nn.Module):
    """
    Features to logits: the (transformed) features times the codebook embedding, plus a bias per codebook entry.

    `bias` has an entry for the mask id too, as in the released checkpoints, although no logit is computed for it. With
    `return_features` the normed features come too, out of the same call, which hooks of offloading are about.
    """

    def __init__(self, sample_size: int, patch_size: int, codebook_size: int, hidden_size: int):
        super().__init__()
        self.sample_size = sample_size
        self.patch_size = patch_size
        self.norm_in = nn.LayerNorm(hidden_size)
        if patch_size > 1:
            self.unpatch_proj = nn.Linear(hidden_size, patch_size**2 * hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm_out = nn.LayerNorm(hidden_size)
        self.bias = nn.Parameter(torch.zeros(codebook_size + 1))

    def unpatchify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        side, patch = self.sample_size // self.patch_size, self.patch_size
        hidden_states = hidden_states.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))  # [B, S, S, p, p, D]
        return hidden_states.transpose(2, 3).flatten(1, 4)  # [B, N, D]

    def forward(self, hidden_states: torch.Tensor, codebook: torch.Tensor, return_features: bool = False) -> Any:
        hidden_states = features = self.norm_in(hidden_states)  # [B, N/p^2, D]
        if self.patch_size > 1:
            hidden_states = self.unpatchify(self.unpatch_proj(hidden_states))  # [B, N, D]
        hidden_states = self.norm_out(F.gelu(self.dense(hidden_states)))  # [B, N, D]
        logits = F.linear(hidden_states, codebook, self.bias[: codebook.shape[0]])  # [B, N, K]
        return (logits, features) if return_features else logits


class UViTTransformer2DModel(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin):
    r"""
    The masked-token transformer of AutoNAT ([Revisiting Non-Autoregressive Transformers for Efficient Image
    Synthesis](https://huggingface.co/papers/2406.05478)), class- or text-conditional: a
    [U-ViT](https://huggingface.co/papers/2209.12152) over a grid of codebook ids, some of them masked.

    The paper's models, by `(hidden_size, num_layers, num_attention_heads)`: AutoNAT-S (512, 13, 8), AutoNAT-L
    (768, 25, 8); for 512 px images both with `sample_size=32, patch_size=2`.

    Args:
        sample_size (`int`, defaults to 16): Side of the token grid, so `N = sample_size**2` tokens.
        patch_size (`int`, defaults to 1): Side of the square of tokens that makes one position of the transformer.
        codebook_size (`int`, defaults to 1024): Entries `K` of the tokenizer's codebook; the mask id is `K`.
        hidden_size (`int`, defaults to 768): Width `D` of the transformer.
        num_layers (`int`, defaults to 25):
            Number of blocks, odd: `k` blocks, a middle one, and `k` blocks that each join the output of a mirror block.
        num_attention_heads (`int`, defaults to 8): Attention heads per block.
        mlp_ratio (`float`, defaults to 4.0): Width of the feed-forward layers relative to `hidden_size`.
        num_classes (`int`, defaults to 1000):
            Number of real classes; the null class of classifier-free guidance has id `num_classes`. Not used when
            `context_dim` is set.
        context_dim (`int`, *optional*): Width of text states. If set, the model is conditioned on text, not on classes.
        context_length (`int`, defaults to 77): Number of text states; used only when `context_dim` is set.
        dropout (`float`, defaults to 0.1): Dropout on the embedded image tokens while training.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["UViTEmbedding", "UViTBlock", "UViTHead"]
    _repeated_blocks = ["UViTBlock"]
    _skip_layerwise_casting_patterns = ["embed", "norm", "head"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 16,
        patch_size: int = 1,
        codebook_size: int = 1024,
        hidden_size: int = 768,
        num_layers: int = 25,
        num_attention_heads: int = 8,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        context_dim: int | None = None,
        context_length: int = 77,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_sizes(
            sample_size=sample_size,
            patch_size=patch_size,
            codebook_size=codebook_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            num_classes=num_classes,
            context_dim=context_dim,
            context_length=context_length,
        )
        if num_layers % 2 == 0:
            raise ValueError(f"`num_layers` counts k + 1 + k blocks and has to be odd, but is {num_layers}.")
        if sample_size % patch_size != 0:
            raise ValueError(f"`sample_size` ({sample_size}) has to be a multiple of `patch_size` ({patch_size}).")
        if hidden_size % num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` ({hidden_size}) has to be a multiple of `num_attention_heads` ({num_attention_heads})."
            )

        self.embed = UViTEmbedding(
            sample_size, patch_size, codebook_size, hidden_size, num_classes, context_dim, dropout
        )
        num_outer = num_layers // 2
        self.in_blocks = nn.ModuleList(
            [UViTBlock(hidden_size, num_attention_heads, mlp_ratio, skip=False) for _ in range(num_outer)]
        )
        self.mid_block = UViTBlock(hidden_size, num_attention_heads, mlp_ratio, skip=False)
        self.out_blocks = nn.ModuleList(
            [UViTBlock(hidden_size, num_attention_heads, mlp_ratio, skip=True) for _ in range(num_outer)]
        )
        self.head = UViTHead(sample_size, patch_size, codebook_size, hidden_size)

        self.gradient_checkpointing = False
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """U-ViT's initialisation: weights N(0, 0.02), truncated in linear layers; biases 0; norms the identity."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def check_inputs(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor | None,
        cache: None,
    ) -> None:
        """Raise `ValueError` on wrong shapes or a wrong kind of condition. Looks at shapes only, never at values."""
        config = self.config
        num_tokens = config.sample_size**2
        if input_ids.ndim != 2 or input_ids.shape[1] != num_tokens:
            raise ValueError(
                f"`input_ids` has to be [batch, {num_tokens}] for sample_size={config.sample_size}, but is"
                f" {list(input_ids.shape)}."
            )
        batch_size = input_ids.shape[0]
        if cache is not None:
            raise ValueError(f"U-ViT keeps nothing between calls, so `cache` has to be None, but is a {type(cache)}.")
        check_condition(config, batch_size, class_labels, encoder_hidden_states)

    def _run_block(self, block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)

    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        cache: None = None,
        num_masked: int | None = None,
        return_dict: bool = True,
    ) -> UViTTransformer2DModelOutput | tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, sample_size**2)`, int64):
                Codebook ids in raster order; `codebook_size` where masked.
            class_labels (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                Class of every sample, `num_classes` for none. Required by a class-conditional model.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, context_length, context_dim)`, *optional*):
                Text states. Required by a text-conditional model.
            cache (`None`), num_masked (`int`, *optional*):
                What all transformers of the family are given, see [`ENATTransformer2DModel`]. This one computes every
                token anew in every call: it uses neither, and its output's `cache` is always None.
            return_dict (`bool`, defaults to `True`): Whether to return a dataclass or a tuple.

        Returns:
            [`UViTTransformer2DModelOutput`], or `(sample, features)` if `return_dict` is False.
        """
        self.check_inputs(input_ids, class_labels, encoder_hidden_states, cache)
        hidden_states = self.embed(input_ids, class_labels, encoder_hidden_states)  # [B, L + N/p^2, D]
        skips: list[torch.Tensor] = []
        for block in self.in_blocks:
            hidden_states = self._run_block(block, hidden_states)  # [B, L + N/p^2, D]
            skips.append(hidden_states)
        hidden_states = self._run_block(self.mid_block, hidden_states)  # [B, L + N/p^2, D]
        for block in self.out_blocks:
            hidden_states = self._run_block(block, hidden_states, skips.pop())  # [B, L + N/p^2, D]
        num_context = 1 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        hidden_states = hidden_states[:, num_context:]  # [B, N/p^2, D]

        # The output layer shares the codebook embedding but does not train it. The rows are read through the
        # embedding module, not from its weight, so that offloading and sharding hooks on that module run.
        codebook = self.embed.word_embeddings(torch.arange(self.config.codebook_size, device=input_ids.device))
        logits, features = self.head(
            hidden_states, codebook.detach(), return_features=True
        )  # [B, N, K], [B, N/p^2, D]

        if not return_dict:
            return logits, features
        return UViTTransformer2DModelOutput(sample=logits, features=features)
