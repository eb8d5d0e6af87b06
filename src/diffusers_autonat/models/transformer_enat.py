"""ENAT: an encoder for visible tokens that is reused between steps, and a small decoder for the masked ones."""

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
class ENATCache(BaseOutput):
    """
    What one step of [`ENATTransformer2DModel`] hands to the next: tensors with the batch in front, of the `n` tokens
    that were encoded.

    Args:
        features (`torch.Tensor` of shape `(batch_size, n, hidden_size)`): Final features of the encoded tokens.
        indices (`torch.LongTensor` of shape `(batch_size, n)`): Their positions in raster order of the grid.
        valid (`torch.BoolTensor` of shape `(batch_size, n)`, *optional*):
            False where a sample has fewer than `n`; None where all have as many.
        modulation (`torch.Tensor` of shape `(batch_size, num_layers, 8 * hidden_size)`, *optional*):
            Shifts, scales and gates of all blocks. They follow from the condition alone, so the next step need not compute
            them again: with few tokens, that is a third of the weights it would have to read.
    """

    # Features and indices are always given. The defaults let accelerate rebuild a cache from a mapping when it moves it.
    features: torch.Tensor = None  # type: ignore[assignment]
    indices: torch.Tensor = None  # type: ignore[assignment]
    valid: torch.Tensor | None = None
    modulation: torch.Tensor | None = None

    @classmethod
    def cat(cls, caches: list[ENATCache]) -> ENATCache:
        """Join along the batch, e.g. the conditional and the unconditional half."""
        width = max(cache.indices.shape[1] for cache in caches)
        ragged = any(cache.valid is not None or cache.indices.shape[1] < width for cache in caches)
        padded = [cache._pad(width) if ragged else cache for cache in caches]
        modulations = [cache.modulation for cache in caches if cache.modulation is not None]
        return cls(
            features=torch.cat([cache.features for cache in padded]),
            indices=torch.cat([cache.indices for cache in padded]),
            valid=torch.cat([cache.valid for cache in padded]) if ragged else None,
            modulation=torch.cat(modulations) if len(modulations) == len(caches) else None,
        )

    def chunk(self, chunks: int) -> tuple[ENATCache, ...]:
        """Split the batch into equal parts; undoes `cat`."""
        optional = ([None] * chunks if part is None else part.chunk(chunks) for part in (self.valid, self.modulation))
        return tuple(map(ENATCache, self.features.chunk(chunks), self.indices.chunk(chunks), *optional))

    def _pad(self, width: int) -> ENATCache:
        """The same with room for `width` tokens."""
        missing = width - self.indices.shape[1]
        valid = torch.ones_like(self.indices, dtype=torch.bool) if self.valid is None else self.valid
        return ENATCache(
            F.pad(self.features, (0, 0, 0, missing)),
            F.pad(self.indices, (0, missing)),
            F.pad(valid, (0, missing)),
            self.modulation,
        )

    def place_of(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which positions `[B, N]` of the grid are encoded, and at which place of the cache each of these is."""
        # Filled-up places go to a position that is cut off again.
        positions = self.indices if self.valid is None else self.indices.masked_fill(~self.valid, num_tokens)  # [B, n]
        places = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
        empty = positions.new_full((len(positions), num_tokens + 1), -1)
        place = empty.scatter(1, positions, places)[:, :num_tokens]  # [B, N]
        return place >= 0, place.clamp(min=0)


@dataclass
class ENATTransformer2DModelOutput(BaseOutput):
    """
    Output of [`ENATTransformer2DModel`].

    Args:
        sample (`torch.Tensor` of shape `(batch_size, sample_size**2, codebook_size)`):
            Logits of the codebook entries at every position, known positions included.
        cache ([`ENATCache`], *optional*):
            For the next step's call; None where nothing was visible. Detached: no gradient flows from one step into
            another.
        features (`torch.Tensor` of shape `(batch_size, sample_size**2, hidden_size)`, *optional*):
            What the logits are made of: the tokens' features after the final norm, which a policy looks at.
    """

    sample: torch.Tensor
    cache: ENATCache | None = None
    features: torch.Tensor | None = None


@dataclass(frozen=True)
class Group:
    """
    Tokens of one kind (reused, fresh, masked), in raster order, gathered from all samples.

    Args:
        indices (`torch.LongTensor` of shape `(batch_size, n)`): Their positions.
        valid (`torch.BoolTensor` of shape `(batch_size, n)`, *optional*):
            False at the places that fill a sample up which has fewer than `n`; None where all have `n`.
    """

    indices: torch.Tensor
    valid: torch.Tensor | None

    @property
    def size(self) -> int:
        return self.indices.shape[1]

    def gather(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[B, N, D]` -> `[B, n, D]`."""
        return gather_tokens(hidden_states, self.indices)


def split_positions(members: torch.Tensor, bounds: list[tuple[int, int]]) -> tuple[list[Group], torch.Tensor]:
    """
    Where to gather each group's tokens from, and where to find every position again afterwards.

    Args:
        members (`torch.Tensor` of shape `(num_groups, B, N)`, bool): Every position is in exactly one group.
        bounds: Per group the smallest and the largest number of members in a sample; the second is the size of what is
            gathered.

    Returns:
        groups: What to gather.
        places: `[B, N]`, index of every position in the concatenation of all groups' gathered tokens.
    """
    num_tokens = members.shape[-1]
    ranks = members.cumsum(dim=-1) - 1  # [G, B, N], of the members among themselves
    positions = torch.arange(num_tokens, device=members.device)  # [N]
    # The member of rank i goes to place i; what is no member to a place that is cut off.
    order = ranks.new_zeros(*ranks.shape[:-1], num_tokens + 1)
    order = order.scatter(-1, ranks.masked_fill(~members, num_tokens), positions.expand_as(ranks))  # [G, B, N + 1]

    groups: list[Group] = []
    places = torch.zeros_like(ranks[0])  # [B, N]
    offset = 0
    for number, (smallest, largest) in enumerate(bounds):
        # The last position's rank is that of the last member.
        valid = None if smallest == largest else positions[:largest] <= ranks[number, :, -1:]  # [B, n]
        groups.append(Group(order[number, :, :largest], valid))
        places = torch.where(members[number], ranks[number] + offset, places)  # [B, N]
        offset += largest
    return groups, places


def join_valid(groups: list[Group]) -> torch.Tensor | None:
    """Which places `[B, sum of n]` of several groups' tokens hold a token, or None if all do."""
    if all(group.valid is None for group in groups):
        return None
    masks = [torch.ones_like(g.indices, dtype=torch.bool) if g.valid is None else g.valid for g in groups]
    return torch.cat(masks, dim=1)


def key_mask(groups: list[Group]) -> torch.Tensor | None:
    """Mask of the keys `[B, sum of n]` that several groups' tokens are, or None if every sample fills all places."""
    valid = join_valid(groups)
    # A sample without a single key would give NaN. Its queries are filled-up places too, so let them see anything.
    return None if valid is None else valid | ~valid.any(dim=1, keepdim=True)


@dataclass(frozen=True)
class Arrangement:
    """
    Where the tokens of one call go.

    Args:
        groups: The reused, fresh and masked tokens.
        places (`torch.LongTensor` of shape `(batch_size, N)`):
            Index of every position in the concatenation of all groups' tokens.
        earlier (`torch.Tensor` of shape `(batch_size, n_reused, hidden_size)`, *optional*):
            Features of the reused tokens, from the step before; None where there are none.
        modulation (`torch.Tensor`, *optional*): See [`ENATCache`].
        encoder_mask, decoder_mask (`torch.BoolTensor` of shape `(batch_size, keys)`, *optional*):
            Keys of each stage that hold a token; None where all do.
    """

    groups: list[Group]
    places: torch.Tensor
    earlier: torch.Tensor | None
    encoder_mask: torch.Tensor | None
    decoder_mask: torch.Tensor | None
    modulation: torch.Tensor | None = None

    def new_cache(self, features: torch.Tensor, modulation: torch.Tensor | None = None) -> ENATCache | None:
        """What the next step is handed of `features` `[B, n, D]` of all groups."""
        visible = self.groups[:2]
        if not (num_visible := sum(group.size for group in visible)):
            return None
        indices = torch.cat([group.indices for group in visible], dim=1)  # [B, n_reused + n_fresh]
        return ENATCache(features[:, :num_visible].detach(), indices, join_valid(visible), modulation)

    def as_inputs(self, hidden_size: int) -> dict[str, torch.Tensor]:
        """Everything as tensors, as an exported graph takes it: zeros and full masks for what is None."""
        reused, fresh, masked = self.groups
        full = torch.ones(len(self.places), reused.size + fresh.size + masked.size, dtype=torch.bool)
        nothing = torch.zeros(len(self.places), reused.size, hidden_size)
        return {
            "earlier": nothing if self.earlier is None else self.earlier,
            "fresh": fresh.indices,
            "masked": masked.indices,
            "places": self.places,
            "encoder_mask": full[:, : reused.size + fresh.size] if self.encoder_mask is None else self.encoder_mask,
            "decoder_mask": full if self.decoder_mask is None else self.decoder_mask,
        }

    @classmethod
    def from_inputs(cls, earlier, fresh, masked, places, encoder_mask, decoder_mask) -> Arrangement:
        """Undoes `as_inputs`, but for the places of reused tokens, which no layer looks at."""
        groups = [Group(earlier[..., 0], None), Group(fresh, None), Group(masked, None)]
        return cls(groups, places, earlier, encoder_mask, decoder_mask)


def gather_tokens(hidden_states: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """`hidden_states[b, indices[b, i]]`: `[B, N, D]` and `[B, n]` -> `[B, n, D]`."""
    return hidden_states.gather(1, indices.unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1]))


class ENATEmbedding(nn.Module):
    """
    Codebook embedding plus learned position, normalised; and the embedding of the condition, which modulates all blocks:
    that of the class, or a linear map of the mean of the text states. States that are all zero are padding, and not
    counted.
    """

    def __init__(
        self,
        sample_size: int,
        codebook_size: int,
        hidden_size: int,
        num_classes: int,
        context_dim: int | None,
        dropout: float,
    ):
        super().__init__()
        self.word_embeddings = nn.Embedding(codebook_size + 1, hidden_size)
        self.position_embeddings = nn.Embedding(sample_size**2, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        if context_dim is None:
            self.class_embeddings = nn.Embedding(num_classes + 1, hidden_size)
        else:
            self.context_proj = nn.Linear(context_dim, hidden_size)

    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # [N]
        tokens = self.word_embeddings(input_ids) + self.position_embeddings(positions)  # [B, N, D]
        tokens = self.dropout(self.norm(tokens))  # [B, N, D]
        if encoder_hidden_states is None:
            return tokens, self.class_embeddings(class_labels)  # [B, N, D], [B, D]
        counted = (encoder_hidden_states != 0).any(-1).sum(-1, keepdim=True).clamp(min=1)  # [B, 1]
        pooled = encoder_hidden_states.sum(1) / counted  # [B, W]
        return tokens, self.context_proj(pooled)  # [B, N, D], [B, D]


class ENATAttnProcessor:
    """Attention of a block's own tokens to context tokens and themselves, through diffusers' attention dispatcher."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: ENATAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)  # [B, n, D] each
        else:
            query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        if encoder_hidden_states is not None:
            key = torch.cat([attn.add_k_proj(encoder_hidden_states), key], dim=1)  # [B, m + n, D]
            value = torch.cat([attn.add_v_proj(encoder_hidden_states), value], dim=1)  # [B, m + n, D]

        return attn.to_out(attend(self, query, key, value, attn.heads, attention_mask))  # [B, n, D]


class ENATAttention(nn.Module, AttentionModuleMixin):
    """Multi-head attention with one key/value projection for the block's own tokens and another for the context."""

    _default_processor_cls = ENATAttnProcessor
    _available_processors = [ENATAttnProcessor]

    def __init__(self, hidden_size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.use_bias = True  # read by `fuse_projections`
        self.to_q = nn.Linear(hidden_size, hidden_size)
        self.to_k = nn.Linear(hidden_size, hidden_size)
        self.to_v = nn.Linear(hidden_size, hidden_size)
        self.add_k_proj = nn.Linear(hidden_size, hidden_size)
        self.add_v_proj = nn.Linear(hidden_size, hidden_size)
        self.to_out = nn.Linear(hidden_size, hidden_size)
        self.set_processor(self._default_processor_cls())

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask)


class ENATBlock(nn.Module):
    """
    A block with adaptive LayerNorm: the embedding of the condition gives shifts, scales and gates. Own tokens are updated;
    context tokens only serve as keys and values, with their own shift, scale and projection.
    """

    def __init__(self, hidden_size: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.norm_context = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.attn = ENATAttention(hidden_size, heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.ff = FeedForward(hidden_size, inner_dim=round(hidden_size * mlp_ratio), activation_fn="gelu-approximate")
        self.modulation = nn.Linear(hidden_size, 8 * hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        condition: torch.Tensor,
        context: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        modulation: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens, and the modulation `[B, 8D]` of this condition, which may be given as it came out before."""
        if modulation is None:
            modulation = self.modulation(F.silu(condition))  # [B, 8D]
        parts = modulation.unsqueeze(1).chunk(8, dim=-1)  # [B, 1, D] each
        shift, scale, shift_context, scale_context, gate, shift_ff, scale_ff, gate_ff = parts

        own = self.norm1(hidden_states) * (1 + scale) + shift  # [B, n, D]
        others = None
        if context is not None:
            others = self.norm_context(context) * (1 + scale_context) + shift_context  # [B, m, D]
        hidden_states = hidden_states + gate * self.attn(own, others, attention_mask)  # [B, n, D]
        changed = self.ff(self.norm2(hidden_states) * (1 + scale_ff) + shift_ff)  # [B, n, D]
        return hidden_states + gate_ff * changed, modulation


class ENATReuseProjection(nn.Module):
    """The residual MLP that features from an earlier step pass before they are used again."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.ff = FeedForward(hidden_size, activation_fn="gelu-approximate")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.ff(self.norm(hidden_states))  # [B, n, D]


class ENATHead(nn.Module):
    """
    Puts the groups of tokens back in raster order and maps the features to logits: the transformed features times the
    codebook embedding, plus a bias per codebook entry (`bias` has one for the mask id too, as in released weights).
    With `return_features` the normed features come too.
    """

    def __init__(self, codebook_size: int, hidden_size: int):
        super().__init__()
        self.norm_in = nn.LayerNorm(hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm_out = nn.LayerNorm(hidden_size)
        self.bias = nn.Parameter(torch.zeros(codebook_size + 1))

    def forward(
        self, features: torch.Tensor, places: torch.Tensor, codebook: torch.Tensor, return_features: bool = False
    ) -> Any:
        features = self.norm_in(gather_tokens(features, places))  # [B, N, D]
        hidden_states = self.norm_out(F.gelu(self.dense(features)))  # [B, N, D]
        logits = F.linear(hidden_states, codebook, self.bias[: codebook.shape[0]])  # [B, N, K]
        return (logits, features) if return_features else logits


class ENATTransformer2DModel(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin):
    r"""
    The transformer of ENAT, class- or text-conditional ([Rethinking Spatial-temporal Interactions in Token-based Image
    Synthesis](https://huggingface.co/papers/2411.06959)).

    Visible and masked tokens are computed apart: the encoder works on visible tokens only, the decoder updates masked
    tokens, with the visible ones as context. Given the `cache` of the step before, the encoder works only on tokens
    revealed since; features of older ones are reused through a small MLP. Tokens are gathered before every stage, so
    the cost follows the number of tokens worked on. Counts may differ between the samples of a batch; then the gathered
    tokens are padded and padded keys masked.

    With a `context_dim` the mean of the text states takes the place of the class embedding: this package's own choice, for
    how the paper's MS-COCO model is conditioned could not be read from what of it was at hand.

    ENAT-L of the paper is `hidden_size=1024, num_encoder_layers=22, num_decoder_layers=2, num_attention_heads=16`.

    Args:
        sample_size (`int`, defaults to 16): Side of the token grid, so `N = sample_size**2` tokens.
        codebook_size (`int`, defaults to 1024): Entries `K` of the tokenizer's codebook; the mask id is `K`.
        hidden_size (`int`, defaults to 1024): Width `D` of the transformer.
        num_encoder_layers (`int`, defaults to 22): Blocks for visible tokens.
        num_decoder_layers (`int`, defaults to 2): Blocks for masked tokens.
        num_attention_heads (`int`, defaults to 16): Attention heads per block.
        mlp_ratio (`float`, defaults to 4.0): Width of the blocks' feed-forward layers relative to `hidden_size`.
        num_classes (`int`, defaults to 1000):
            Number of real classes; the null class of classifier-free guidance has id `num_classes`. Not used when
            `context_dim` is set.
        dropout (`float`, defaults to 0.1): Dropout on the embedded tokens while training.
        context_dim (`int`, *optional*): Width of text states. If set, the model is conditioned on text, not on classes.
        context_length (`int`, defaults to 77): Number of text states; used only when `context_dim` is set.
    """

    keeps_modulation = True  # of the blocks, from step to step in the cache
    reuses_features = True  # of earlier steps, by `cache`: a sampler cannot begin in the middle
    _supports_gradient_checkpointing = True
    _no_split_modules = ["ENATEmbedding", "ENATBlock", "ENATReuseProjection", "ENATHead"]
    _repeated_blocks = ["ENATBlock"]
    _skip_layerwise_casting_patterns = ["embed", "norm", "head"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 16,
        codebook_size: int = 1024,
        hidden_size: int = 1024,
        num_encoder_layers: int = 22,
        num_decoder_layers: int = 2,
        num_attention_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        dropout: float = 0.1,
        context_dim: int | None = None,
        context_length: int = 77,
    ):
        super().__init__()
        check_sizes(
            sample_size=sample_size,
            codebook_size=codebook_size,
            hidden_size=hidden_size,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            num_attention_heads=num_attention_heads,
            num_classes=num_classes,
            context_dim=context_dim,
            context_length=context_length,
        )
        if hidden_size % num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` ({hidden_size}) has to be a multiple of `num_attention_heads` ({num_attention_heads})."
            )
        self.embed = ENATEmbedding(sample_size, codebook_size, hidden_size, num_classes, context_dim, dropout)
        self.reuse_proj = ENATReuseProjection(hidden_size)
        self.encoder_blocks = nn.ModuleList(
            [ENATBlock(hidden_size, num_attention_heads, mlp_ratio) for _ in range(num_encoder_layers)]
        )
        self.decoder_blocks = nn.ModuleList(
            [ENATBlock(hidden_size, num_attention_heads, mlp_ratio) for _ in range(num_decoder_layers)]
        )
        self.head = ENATHead(codebook_size, hidden_size)

        self.gradient_checkpointing = False
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """ENAT's: Xavier for linear layers, zero modulation (blocks start as the identity), small class embeddings."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                if name.endswith("modulation"):
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def compile_repeated_blocks(self, *args, **kwargs) -> None:
        """As every model's, with `dynamic=True` by default: a block meets other numbers of tokens in every step, and
        graphs of one size each would soon reach torch's limit. So would graphs with and without a modulation that is given:
        it is computed in every step then."""
        self.keeps_modulation = False
        super().compile_repeated_blocks(*args, **{"dynamic": True} | kwargs)

    @property
    def hands_on_modulation(self) -> bool:
        """Not where gradients are recorded: one that was computed without them would cut them off, and a cache in training is
        of the averaged model."""
        return self.keeps_modulation and not torch.is_grad_enabled()

    def check_inputs(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor | None,
        cache: ENATCache | None,
    ) -> None:
        """Raise `ValueError` on wrong shapes or a wrong kind of condition. Looks at shapes only, never at values."""
        num_tokens, hidden_size = self.config.sample_size**2, self.config.hidden_size
        if input_ids.ndim != 2 or input_ids.shape[1] != num_tokens:
            raise ValueError(
                f"`input_ids` has to be [batch, {num_tokens}] for sample_size={self.config.sample_size}, but is"
                f" {list(input_ids.shape)}."
            )
        batch_size = input_ids.shape[0]
        check_condition(self.config, batch_size, class_labels, encoder_hidden_states)
        if cache is not None:
            size = cache.indices.shape[-1]
            if cache.features.shape != (batch_size, size, hidden_size) or cache.indices.shape != (batch_size, size):
                raise ValueError(
                    f"`cache` has to hold features [{batch_size}, n, {hidden_size}] and indices [{batch_size}, n], but has"
                    f" {list(cache.features.shape)} and {list(cache.indices.shape)}."
                )

    def _bounds(self, members: torch.Tensor, cache: ENATCache | None, num_masked: int | None) -> list[tuple[int, int]]:
        """Smallest and largest number of reused, fresh and masked tokens in a sample, given the `members` of each."""
        num_tokens, num_cached = members.shape[-1], 0 if cache is None else cache.indices.shape[1]
        if num_masked is not None and (cache is None or cache.valid is None):
            sizes = (num_cached, num_tokens - num_masked - num_cached, num_masked)
            return [(size, size) for size in sizes]
        if torch.compiler.is_compiling():
            # A graph's shapes cannot depend on its data: every group gets room for all that could be in it.
            return [(0, num_cached), (0, num_tokens), (0, num_tokens)]
        # The one time that the host waits for the device.
        counts = members.sum(dim=-1)  # [3, B]
        return [(low, high) for low, high in torch.stack(counts.aminmax(dim=1), dim=1).tolist()]

    def _run_block(self, block: nn.Module, *inputs) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)

    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        cache: ENATCache | None = None,
        num_masked: int | None = None,
        return_dict: bool = True,
        encoder_hidden_states: torch.Tensor | None = None,
    ) -> ENATTransformer2DModelOutput | tuple[torch.Tensor, ENATCache | None, torch.Tensor]:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, sample_size**2)`, int64):
                Codebook ids in raster order; `codebook_size` where masked.
            class_labels (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                Class of every sample, `num_classes` for none. Required by a class-conditional model.
            cache ([`ENATCache`], *optional*):
                Of the step before, for the same samples in the same order. A position that it has as encoded and that
                is visible now is not encoded again, so its token must not have changed; one that is masked now is
                computed as any masked position. Without a cache every visible token is encoded. Its condition has to be the
                same.
            num_masked (`int`, *optional*):
                How many tokens of every sample are masked, if that is known: then nothing waits for the device.
                Tokens that the cache has as encoded must be visible still.
            return_dict (`bool`, defaults to `True`): Whether to return a dataclass or a tuple.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, context_length, context_dim)`, *optional*):
                Text states, zero at padding. Required by a text-conditional model.

        Returns:
            [`ENATTransformer2DModelOutput`], or `(sample, cache, features)` if `return_dict` is False.
        """
        self.check_inputs(input_ids, class_labels, encoder_hidden_states, cache)
        arrangement = self.arrange(input_ids, cache, num_masked)
        logits, normed, features, modulation = self.compute(
            input_ids, arrangement, class_labels, encoder_hidden_states
        )
        new_cache = arrangement.new_cache(features, modulation)
        if not return_dict:
            return logits, new_cache, normed
        return ENATTransformer2DModelOutput(sample=logits, cache=new_cache, features=normed)

    def arrange(self, input_ids: torch.Tensor, cache: ENATCache | None, num_masked: int | None) -> Arrangement:
        """Which tokens are reused, fresh and masked, and where they go; see `forward`. Looks at no weights."""
        masked = input_ids == self.config.codebook_size  # [B, N]
        reused = torch.zeros_like(masked)
        if cache is not None:
            encoded, place = cache.place_of(masked.shape[1])  # [B, N] each
            reused = encoded & ~masked
        members = torch.stack([reused, ~masked & ~reused, masked])  # [3, B, N]
        groups, places = split_positions(members, self._bounds(members, cache, num_masked))
        earlier = None
        if cache is not None and groups[0].size > 0:
            earlier = gather_tokens(cache.features, place.gather(1, groups[0].indices))  # [B, n_reused, D]
        modulation = cache.modulation if cache is not None and self.hands_on_modulation else None
        return Arrangement(groups, places, earlier, key_mask(groups[:2]), key_mask(groups), modulation)

    def compute(
        self,
        input_ids: torch.Tensor,
        arrangement: Arrangement,
        class_labels: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Logits `[B, N, K]`; normed features `[B, N, D]`; features `[B, n, D]` of all groups, one behind the other; and the
        modulation for the cache, where that of all blocks is known."""
        tokens, embedding = self.embed(input_ids, class_labels, encoder_hidden_states)  # [B, N, D], [B, D]
        groups = [] if arrangement.earlier is None else [self.reuse_proj(arrangement.earlier)]  # [B, n_reused, D]
        stages = (
            (arrangement.groups[1], arrangement.encoder_mask, self.encoder_blocks),
            (arrangement.groups[2], arrangement.decoder_mask, self.decoder_blocks),
        )
        num_blocks = len(self.encoder_blocks) + len(self.decoder_blocks)
        known = [None] * num_blocks if arrangement.modulation is None else arrangement.modulation.unbind(1)
        offset, found = 0, []
        for group, mask, blocks in stages:
            given, offset = known[offset : offset + len(blocks)], offset + len(blocks)
            if group.size == 0:
                continue
            hidden_states = group.gather(tokens)  # [B, n, D]
            context = torch.cat(groups, dim=1) if groups else None  # [B, m, D], as the groups before came out
            for block, modulation in zip(blocks, given):
                hidden_states, modulation = self._run_block(block, hidden_states, embedding, context, mask, modulation)
                found.append(modulation)
            groups.append(hidden_states)
        features = torch.cat(groups, dim=1)  # [B, all n, D]

        # The output layer shares the codebook embedding but does not train it. The rows are read through the
        # embedding module, not from its weight, so that offloading and sharding hooks on that module run.
        codebook = self.embed.word_embeddings(torch.arange(self.config.codebook_size, device=input_ids.device))
        logits, normed = self.head(features, arrangement.places, codebook.detach(), return_features=True)
        modulation = arrangement.modulation
        if modulation is None and len(found) == num_blocks and self.hands_on_modulation:
            modulation = torch.stack(found, dim=1)  # [B, num_blocks, 8D]
        return logits, normed, features, modulation
