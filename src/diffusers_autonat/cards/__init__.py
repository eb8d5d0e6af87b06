"""Model cards: metadata and a list of sections, each a function that returns Markdown."""

from .card import code_block, escape, make_card, save_card, shell_command, table
from .sections import PAPERS, classes, metadata, usage


__all__ = [
    "PAPERS",
    "classes",
    "code_block",
    "escape",
    "make_card",
    "metadata",
    "save_card",
    "shell_command",
    "table",
    "usage",
]
