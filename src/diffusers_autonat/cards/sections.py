"""What several cards have: metadata of a pipeline, how to load it, its classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from huggingface_hub import ModelCardData

from .card import code_block, escape


LIBRARY = "[diffusers-autonat](https://pypi.org/project/diffusers-autonat/)"

PAPERS = {  # by the transformer's class
    "UViTTransformer2DModel": "AutoNAT, [arXiv:2406.05478](https://huggingface.co/papers/2406.05478)",
    "ENATTransformer2DModel": "ENAT, [arXiv:2411.06959](https://huggingface.co/papers/2411.06959)",
}


def metadata(
    license: str,
    tags: Iterable[str],
    datasets: Sequence[str] = (),
    pipeline_tag: str = "unconditional-image-generation",
) -> ModelCardData:
    """
    Of a diffusers pipeline or its components.

    Args:
        license: Identifier of the Hub; `other` points to the card's section "License".
        tags: Beside those that all have. datasets: Ids on the Hub, where they are known.
        pipeline_tag: The Hub's task; a class-conditional model has `unconditional-image-generation`.
    """
    return ModelCardData(
        library_name="diffusers",
        license=license,
        license_name="see-license-section" if license == "other" else None,
        pipeline_tag=pipeline_tag,
        datasets=list(datasets) or None,
        tags=["diffusers", *tags, "masked-image-generation"],
    )


def usage(
    name: str, call: str, pipeline_class: str = "AutoNATPipeline", also: Sequence[str] = (), imports: str = ""
) -> str:
    """
    How to load a pipeline and call it, by its class and by `DiffusionPipeline`, which reads the `pipeline.py` that
    saving has written.

    Args:
        name: Folder, or id on the Hub. call: Lines of code that use `pipe`.
        also: Other names of this package that `call` uses. imports: Lines of code that import what else it uses.
    """
    own, name = ", ".join(sorted([pipeline_class, *also])), json.dumps(name, ensure_ascii=False)
    lines = [f"from diffusers_autonat import {own}", "", f"pipe = {pipeline_class}.from_pretrained({name})", call]
    loaded = f"DiffusionPipeline.from_pretrained({name}, custom_pipeline={name}, trust_remote_code=True)"
    return "\n\n".join([
        code_block("\n".join([imports, *lines] if imports else lines)),
        "Code that knows only diffusers loads it too, where this package is installed; `trust_remote_code` allows to run "
        "[pipeline.py](pipeline.py), one line that imports the class:",
        code_block(f"from diffusers import DiffusionPipeline\n\npipe = {loaded}"),
    ])  # fmt: skip


def classes(id2label: Mapping[int, str] | None, num_classes: int) -> str:
    """The classes with their ids; they are folded away where there are many."""
    if not id2label:
        return f"## Classes\n\n{num_classes}, called by their ids from 0; they have no names."
    names = "; ".join(f"{number} {escape(name)}" for number, name in sorted(id2label.items()))
    if len(id2label) <= 20:
        return f"## Classes\n\n{names}."
    return f"## Classes\n\n<details><summary>all {len(id2label)}, with their ids</summary>\n\n{names}.\n\n</details>"
