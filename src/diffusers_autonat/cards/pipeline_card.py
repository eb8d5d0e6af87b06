"""The card of a pipeline of which nothing else is known than what it is made of, as `push_to_hub` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import file_exists

from .card import make_card, save_card, table
from .sections import LIBRARY, PAPERS, classes, hub_id, license_section, metadata, usage


def pipeline_card(pipeline: Any, name: str) -> str:
    """
    Text of README.md.

    Args:
        pipeline: A pipeline of this package. name: Its repository on the Hub.
    """
    transformer, kind = pipeline.transformer, type(pipeline).__name__
    is_text = getattr(pipeline, "is_text_conditional", False)
    condition = "'a red boat on a lake'" if is_text else repr(_label(pipeline))
    call = f"image = pipe({condition}).images[0]"
    imports = ""
    if kind == "AutoNATInpaintPipeline":
        call = f"image = pipe(image, mask, {'prompt' if is_text else 'class_labels'}={condition}).images[0]"
        imports = 'from PIL import Image\n\nimage, mask = Image.open("image.png"), Image.open("mask.png")'
    what = PAPERS.get(type(transformer).__name__)
    tag = "text-conditional" if is_text else "class-conditional"
    num_classes = getattr(transformer.config, "num_classes", None)
    base = hub_id(pipeline.config.get("_name_or_path"))
    return make_card(
        metadata(
            "unknown", ["autonat", tag], (), "text-to-image" if is_text else "unconditional-image-generation", base_model=base
        ),
        [
            f"# {Path(name).name}",
            f"A {tag} masked-token pipeline{f' ({what})' if what else ''}: {transformer.num_parameters():,} parameters in the "
            f"transformer. Saved with {LIBRARY}.",
            usage(name, call, kind, imports=imports, without_encoder=is_text and pipeline.text_encoder is None),
            "" if is_text or num_classes is None else classes(getattr(pipeline, "id2label", None), num_classes),
            _strategies(pipeline),
            license_section("unknown"),
        ],
    )  # fmt: skip


def add_card(pipeline: Any, folder: str | Path, repository: str, token: str | None = None) -> None:
    """Write README.md into the folder of a saved pipeline, unless the folder or its repository on the Hub has one."""
    if not Path(folder, "README.md").exists() and not file_exists(repository, "README.md", token=token):
        save_card(folder, pipeline_card(pipeline, repository))


def _label(pipeline: Any) -> str | int:
    """A class to show: its name, where that stands for one class only."""
    names = list((getattr(pipeline, "id2label", None) or {}).values())
    return next((name for name in names if names.count(name) == 1), 0)


def _strategies(pipeline: Any) -> str:
    stored = pipeline.scheduler.stored_strategies
    if getattr(pipeline, "policy", None) is not None or not stored:
        return ""
    names = [name.replace("_", " ") for name in next(iter(stored.values())).to_dict()]
    rows = [
        [str(steps), *(", ".join(f"{value:.3g}" for value in values) for values in strategy.to_dict().values())]
        for steps, strategy in sorted(stored.items())
    ]
    return f"## Strategies\n\nIn the scheduler, an instance of `{type(pipeline.scheduler).__name__}`:\n\n" + table(
        ["T", *names], rows
    )
