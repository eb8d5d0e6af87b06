"""`pipeline.py` of a saved pipeline: by it `DiffusionPipeline.from_pretrained` finds a class of this package.

    DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)

A plain `DiffusionPipeline.from_pretrained(folder)` looks for classes in diffusers alone. The file may only import: relative
imports in a pipeline's own module would be looked for beside the copy.
"""

from __future__ import annotations

from pathlib import Path

from ..files import write_text


FILE = "pipeline.py"
TEXT = """\
# diffusers runs this file of all folders in one module, and wants one class there: what another has left goes.
for _name in [name for name, value in globals().items() if isinstance(value, type)]:
    del globals()[_name]

from diffusers_autonat import {name}  # noqa: E402, F401
"""


def save_remote_code(pipeline_class: type, folder: str | Path) -> None:
    """Write the file; folder and class as in `save_pretrained`."""
    write_text(Path(folder, FILE), TEXT.format(name=pipeline_class.__name__))
