"""The text encoder beside a text-conditional transformer: somebody else's model, which is read and saved as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from ..loading import without_report
from .source_format import ReleasedTextEncoder


@dataclass
class TextEncoder:
    """
    A text encoder. What is small is read first and checked.

    Args:
        name: Its folder, or its id on the Hub. config: Of the part that encodes texts. tokenizer: Its own.
        pad_token_id: What prompts are padded with. is_assumed: Whether nobody gave it: it is the released model's.
        model, unused: After `load`: the model, and what else its files hold.
    """

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    pad_token_id: int
    is_assumed: bool
    model: Any = None
    unused: tuple[str, ...] = ()

    @classmethod
    def open(cls, name: str, released: ReleasedTextEncoder, pad_token_id: int | None = None) -> TextEncoder:
        """
        Config and tokenizer of a folder or a Hub id; of models of images and texts, such as CLIP, the part for texts.

        Raises:
            ValueError: There is none, it cannot be reached, or it is no encoder of texts.
        """
        with _readable(name):
            config = AutoConfig.from_pretrained(name).get_text_config()
            tokenizer = AutoTokenizer.from_pretrained(name)
        if type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
            raise ValueError(
                f"{name} holds a {config.model_type}, which is no encoder of texts: name a CLIP, T5 or BERT for example."
            )
        is_assumed = pad_token_id is None
        return cls(
            name, config, tokenizer, released.pad_token_id if pad_token_id is None else pad_token_id, is_assumed
        )

    @property
    def title(self) -> str:
        """What others may read: of a folder its name alone, of one in the Hub's cache the id on the Hub."""
        if not Path(self.name).is_dir():
            return self.name
        folder = Path(self.name).resolve()
        cached = [part for part in folder.parts if part.startswith("models--")]
        return cached[-1].removeprefix("models--").replace("--", "/") if cached else folder.name

    def fit(self, transformer: Mapping[str, Any]) -> None:
        """Cut texts as a transformer with this config wants them; `ValueError` unless it takes this encoder's states."""
        name, width, length = self.name, transformer["context_dim"], transformer["context_length"]
        longest = getattr(self.config, "max_position_embeddings", length)
        if self.config.hidden_size != width:
            raise ValueError(
                f"{name} gives states of width {self.config.hidden_size}, but the checkpoint takes {width}: name the text "
                "encoder that it was trained with."
            )
        if longest < length:
            raise ValueError(
                f"{name} takes {longest} tokens, but context_length is {length}: give --context-length {longest}, or name the "
                "text encoder that the checkpoint was trained with."
            )
        if self.pad_token_id >= self.config.vocab_size:
            raise ValueError(
                f"pad_token_id {self.pad_token_id} is no token of {name}: they are 0 to {self.config.vocab_size - 1}."
            )
        self.tokenizer.model_max_length = length

    def load(self) -> None:
        """
        Read the model; from the Hub it is downloaded first.

        Raises:
            ValueError: It cannot be read, or is not complete.
        """
        with _readable(self.name), without_report():  # `describe` names what is not used
            model, found = AutoModelForTextEncoding.from_pretrained(
                self.name, config=self.config, output_loading_info=True
            )
        if lacking := sorted(found["missing_keys"]):
            raise ValueError(
                f"{self.name} lacks {len(lacking)} tensors of a {type(model).__name__}, such as {lacking[0]}: fetch it again."
            )
        self.model = model.eval()
        self.unused = tuple(sorted({name.split(".")[0] for name in found["unexpected_keys"]}))

    def describe(self) -> list[str]:
        sizes = f"{self.model.num_parameters():,} parameters, states of width {self.config.hidden_size}"
        lines = [f"text encoder: {type(self.model).__name__} of {self.title}, {sizes}"]
        assumed = f"  no tensor shows pad_token_id={self.pad_token_id}: assumed, as in the released model"
        return lines + [assumed] * self.is_assumed + [f"  not used: {', '.join(self.unused)}"] * bool(self.unused)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """One line with a remedy for whatever transformers says, at length, of what it cannot find or reach."""
    try:
        yield
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .:")
        if Path(name).exists():
            raise ValueError(
                f"{name} cannot be read as a text encoder with its tokenizer, as save_pretrained writes them: {reason}."
            ) from None
        if isinstance(error, HFValidationError) or isinstance(error.__cause__, HFValidationError):
            raise ValueError(f"{name} is neither a folder nor an id on the Hub: name the text encoder.") from None
        raise ValueError(
            f"{name} is no folder, and cannot be had from the Hub ({reason}): run `hf download {name}` where there is a "
            "network, or name a folder of the encoder."
        ) from None
