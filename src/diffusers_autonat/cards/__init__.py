"""Model cards: metadata and a list of sections, each a function that returns Markdown."""

from .card import code_block, escape, make_card, save_card, shell_command, shown_path, table
from .pipeline_card import add_card, pipeline_card
from .sections import (
    PAPERS,
    classes,
    hub_id,
    license_fields,
    license_section,
    metadata,
    result,
    shown_folder,
    shown_name,
    usage,
)


__all__ = [
    "PAPERS",
    "add_card",
    "classes",
    "code_block",
    "escape",
    "hub_id",
    "license_fields",
    "license_section",
    "make_card",
    "metadata",
    "pipeline_card",
    "result",
    "save_card",
    "shell_command",
    "shown_folder",
    "shown_name",
    "shown_path",
    "table",
    "usage",
]
