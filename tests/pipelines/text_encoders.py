"""Small random text encoders with a tokenizer of whole words, and pipelines on them."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from diffusers_autonat import AutoNATTextToImagePipeline, GenerationStrategy, NATScheduler, UViTTransformer2DModel
from tests.conftest import tiny_vqvae


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "green", "boat", "tree", "on", "the", "lake"]
LENGTH, WIDTH = 6, 16


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_max_length=LENGTH,
    )  # fmt: skip


def tiny_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own, which reads "!" as id 1, while id 0 is "!" too, before another letter."""
    vocabulary = {"!": 0, "!</w>": 1, "a": 2, "a</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}
    return CLIPTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>")


def tiny_encoder(kind: str = "clip", width: int = WIDTH) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "hidden_size": width, "intermediate_size": 32}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "clip":
        config = CLIPTextConfig(**sizes, **layers, max_position_embeddings=16, bos_token_id=1, eos_token_id=2)
        return CLIPTextModel(config).eval()
    if kind == "bert":
        return BertModel(BertConfig(**sizes, **layers, max_position_embeddings=16)).eval()
    return T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).eval()


def tiny_text_pipeline(kind: str = "clip") -> AutoNATTextToImagePipeline:
    torch.manual_seed(0)
    transformer = UViTTransformer2DModel(
        sample_size=7, codebook_size=16, hidden_size=32, num_layers=3, num_attention_heads=4, context_dim=WIDTH,
        context_length=LENGTH,
    ).eval()  # fmt: skip
    for name, parameter in transformer.named_parameters():  # so that a text makes a difference
        if "context_proj" in name or "to_" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    scheduler = NATScheduler(16, [GenerationStrategy.cosine(4), GenerationStrategy.cosine(8)])
    pipe = AutoNATTextToImagePipeline(tiny_vqvae(), transformer, scheduler, tiny_encoder(kind), tiny_tokenizer())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_without_encoder(folder, encoder) -> str:
    """Save `tiny_text_pipeline` to a folder, its text encoder and tokenizer to another, whose name is returned."""
    pipe = tiny_text_pipeline()
    pipe.text_encoder.save_pretrained(encoder)
    pipe.tokenizer.save_pretrained(encoder)
    pipe.register_modules(text_encoder=None, tokenizer=None)
    pipe.save_pretrained(folder)
    return str(encoder)
