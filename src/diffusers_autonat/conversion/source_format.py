"""What converting a released checkpoint needs to know about where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:  # imported only when something is converted: the command line asks for names and options alone
    import torch

    from ..strategies import GenerationStrategy


@dataclass(frozen=True)
class Origin:
    """For the model card: who made the weights, under which terms, and where one gets them."""

    description: str
    sizes: dict[str, Any]  # of the released weights; others of this format are somebody's own
    code: str
    files: dict[str, str]  # file -> where it is
    license: str  # an identifier of the Hub
    license_note: str
    papers: tuple[str, ...]  # BibTeX

    def released(self, config: dict[str, Any]) -> bool:
        """Whether weights with this config can be those that were released."""
        return all(config.get(key) == value for key, value in self.sizes.items())


class ReleasedTextEncoder(NamedTuple):
    """What texts were encoded with in training."""

    name: str  # on the Hub
    pad_token_id: int


@dataclass(frozen=True)
class SourceFormat:
    """
    One kind of released checkpoint. A new member of the family is one more module with such a constant, listed in
    `conversion.SOURCES`.

    Args:
        name: As the command line calls it.
        title: As messages call it.
        component: Which component of a pipeline it becomes, `"transformer"`, `"vqvae"` or `"policy"`.
        model_class: The class of that component, by its module and name.
        recognise: Whether a checkpoint with these tensor names is of this kind.
        convert: State dict -> config and state dict of `model_class`. Takes what `assumed` names as keywords; a
            tokenizer's takes `grid_size`, the side of its transformer's grid of tokens.
        describe: Config -> its sizes in words, for messages and the model card.
        agreement: What becomes of the tensors, and how far the result was compared with the authors' code; for the card.
        origin: For the model card.
        unused: Patterns of tensor names that checkpoints may have and the model does not use.
        assumed: Arguments of `convert` that no tensor shows, with the released model's values. Each is an option of the
            command.
        strategies: Config -> strategies to store where none are given; none by default.
        text_encoder: Of a text-conditional transformer: what the released weights were trained with. With
            an encoder and a tokenizer it makes an [`AutoNATTextToImagePipeline`], where this is None an [`AutoNATPipeline`].
    """

    name: str
    title: str
    component: str
    model_class: str
    recognise: Callable[[Collection[str]], bool]
    convert: Callable[..., tuple[dict[str, Any], dict[str, torch.Tensor]]]
    describe: Callable[[dict[str, Any]], str]
    agreement: str
    origin: Origin
    unused: tuple[str, ...] = ()
    assumed: dict[str, int] = field(default_factory=dict)
    strategies: Callable[[dict[str, Any]], list[GenerationStrategy]] = lambda config: []
    text_encoder: ReleasedTextEncoder | None = None

    def load_model_class(self) -> type:
        module, _, name = self.model_class.rpartition(".")
        return getattr(import_module(module), name)

    def unused_in(self, names: Collection[str]) -> list[str]:
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in self.unused)]
