"""A card is metadata and sections: how they are put together, and the Markdown that sections are made of."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..files import write_text


def make_card(metadata: ModelCardData, sections: Iterable[str]) -> str:
    """Text of README.md. Sections come in their order, an empty line between them; empty ones are left out."""
    body = "\n\n".join(section.strip("\n") for section in sections if section.strip())
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n").content


def save_card(folder: str | Path, text: str) -> None:
    """Write README.md, the text of `make_card`, whole or not at all."""
    write_text(Path(folder, "README.md"), text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def code_block(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def escape(text: str) -> str:
    """A text of somebody else's, such as a class name, as the page is to show it: neither HTML nor Markdown in it acts."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def shown_path(word: str) -> str:
    """A path to show to others: of one that tells of this machine (absolute, of a home folder, leading out of the working
    folder), also in `--name=/a/path`, only the last component is left."""
    told = re.compile(r"(--?[\w-]+=)?((?:/|~|\.\.|file:|[A-Za-z]:[\\/]).*)", re.DOTALL)
    if match := told.fullmatch(word):
        return (match[1] or "") + re.split(r"[\\/]", match[2].rstrip("\\/"))[-1]
    return word


def shell_command(words: Iterable[str]) -> str:
    """A command line to show to others, its paths as `shown_path` has them."""
    return shlex.join(map(shown_path, words))
