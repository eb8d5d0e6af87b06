"""What several cards have: metadata of a pipeline, how to load it, its classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .card import code_block, escape, shown_path


LIBRARY = "[diffusers-autonat](https://pypi.org/project/diffusers-autonat/)"

PAPERS = {  # by the transformer's class
    "UViTTransformer2DModel": "AutoNAT, [arXiv:2406.05478](https://huggingface.co/papers/2406.05478)",
    "ENATTransformer2DModel": "ENAT, [arXiv:2411.06959](https://huggingface.co/papers/2411.06959)",
}


def metadata(
    license: str | None,
    tags: Iterable[str],
    datasets: Sequence[str] = (),
    pipeline_tag: str | None = "unconditional-image-generation",
    base_model: str | None = None,
    base_model_relation: str | None = None,
    name: str = "",
    results: Sequence[EvalResult] = (),
) -> ModelCardData:
    """
    Of a diffusers pipeline or its components.

    Args:
        license: Identifier of the Hub; `other` points to the card's section "License", None says nothing.
        tags: Beside those that all have. datasets: Ids on the Hub, where they are known.
        pipeline_tag: The Hub's task; a class-conditional model has `unconditional-image-generation`, a component none.
        base_model: Id on the Hub of what it was made from. A folder of this machine is none, see `hub_id`.
        base_model_relation: `finetune` or `adapter`.
        name: Of the model. results: What was measured (see `result`); they become its model index, for which it needs a name.
    """
    base_model = hub_id(base_model)
    relation: dict[str, Any] = {}
    if base_model and base_model_relation:
        relation = {"base_model_relation": base_model_relation}
    return ModelCardData(
        library_name="diffusers",
        **license_fields(license),
        pipeline_tag=pipeline_tag,
        datasets=list(datasets) or None,
        base_model=base_model,
        **relation,
        tags=["diffusers", *tags, "masked-image-generation"],
        model_name=name if results else None,
        eval_results=list(results) or None,
    )


def result(
    metric: str, value: float, data: str, metric_name: str = "", task: str = "unconditional-image-generation"
) -> EvalResult:
    """
    A value as the Hub lists it.

    Args:
        metric: Its kind, such as `fid` or `accuracy`. value: Of it. metric_name: What it is called.
        data: On which images it was measured: a data set's id on the Hub, or words.
    """
    on_hub = data if hub_id(data) else "custom"
    return EvalResult(
        task_type=task,
        dataset_type=on_hub,
        dataset_name=data,
        metric_type=metric,
        metric_value=round(float(value), 6),
        metric_name=metric_name or metric,
    )


def hub_id(name: str | None) -> str | None:
    """A name if it is an id on the Hub and not a folder of this machine, else None."""
    return name if name and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).exists() else None


def shown_name(name: str) -> str:
    """What cards call a pipeline: its id on the Hub, or the folder alone, since where that lies is this machine's business."""
    return name if hub_id(name) else Path(name).resolve().name


def shown_folder(folder: str, part: str = "") -> str:
    """A folder of this machine, or a part of it, as code on cards loads it: never taken for an id on the Hub."""
    return f"./{Path(shown_path(folder), part).as_posix()}"


def usage(
    name: str,
    call: str,
    pipeline_class: str = "AutoNATPipeline",
    also: Sequence[str] = (),
    imports: str = "",
    without_encoder: bool = False,
) -> str:
    """
    How to load a pipeline and call it, by its class and by `DiffusionPipeline`, which reads the `pipeline.py` that
    saving has written.

    Args:
        name: Folder, or id on the Hub. call: Lines of code that use `pipe`.
        also: Other names of this package that `call` uses. imports: Lines of code that import what else it uses.
        without_encoder: It draws from text and is stored without the encoder, which the reader has to name.
    """
    own, on_hub, name = ", ".join(sorted([pipeline_class, *also])), hub_id(name), json.dumps(name, ensure_ascii=False)
    lines, encoder = [f"from diffusers_autonat import {own}", ""], ""
    if without_encoder:
        encoder = ", text_encoder=text_encoder, tokenizer=tokenizer"
        lines[1:] = [
            "from diffusers_autonat.loading import load_text_encoder",
            "",
            'text_encoder, tokenizer = load_text_encoder("NAME")  # it is stored without the one that it was trained with',
        ]
    lines += [f"pipe = {pipeline_class}.from_pretrained({name}{encoder})", call]
    # Of an id on the Hub, DiffusionPipeline refuses components of other packages before it reads any file.
    general, folder = ["from diffusers import DiffusionPipeline"], name
    if on_hub:
        general += ["from huggingface_hub import snapshot_download", "", f"folder = snapshot_download({name})"]
        folder = "folder"
    else:
        general += [""]
    general += [
        f"pipe = DiffusionPipeline.from_pretrained({folder}, custom_pipeline={folder}, trust_remote_code=True{encoder})"
    ]
    return "\n\n".join([
        code_block("\n".join([imports, *lines] if imports else lines)),
        "Code that knows only diffusers loads it too, where this package is installed; `trust_remote_code` allows to run "
        "[pipeline.py](pipeline.py), one line that imports the class:",
        code_block("\n".join(general)),
    ])  # fmt: skip


def classes(id2label: Mapping[int, str] | None, num_classes: int) -> str:
    """The classes with their ids; they are folded away where there are many."""
    if not id2label:
        return f"## Classes\n\n{num_classes}, called by their ids from 0; they have no names."
    names = "; ".join(f"{number} {escape(name)}" for number, name in sorted(id2label.items()))
    if len(id2label) <= 20:
        return f"## Classes\n\n{names}."
    return f"## Classes\n\n<details><summary>all {len(id2label)}, with their ids</summary>\n\n{names}.\n\n</details>"


def license_fields(license: str | None) -> dict[str, Any]:
    """A license as metadata have it: `other` points to the card's section."""
    return {"license": license, "license_name": "see-license-section" if license == "other" else None}


def license_section(license: str | None) -> str:
    """Of weights whose trainer has stated it, or has not (`unknown`); nothing of what has none."""
    if license is None:
        return ""
    if license == "unknown":
        return "## License\n\nNot stated by who trained it; ask before you use it."
    return f"## License\n\n{license}, as stated by who trained it."
