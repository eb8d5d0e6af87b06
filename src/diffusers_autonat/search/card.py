"""The card of what a search has found: strategies that anybody puts into the scheduler of the pipeline they were found for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cards import code_block, escape, license_section, make_card, metadata, result, save_card, shown_name, table
from ..cards.sections import LIBRARY
from ..pipelines.prompts import takes_prompts
from ..plots import readable


def save_search_card(
    folder: str | Path,
    name: str,
    base: str,
    pipeline: Any,
    scheduler: Any,
    provenance: Mapping[str, Mapping[str, Any]],
    compared: Mapping[int, tuple[Sequence[str], Sequence[Sequence[str]]]],
    measured_by: str,
    license: str,
    notes: Sequence[str] = (),
    prompt: str | None = None,
    text_encoder: str | None = None,
) -> None:
    """
    Write README.md beside the `scheduler_config.json` of a search.

    Args:
        name: Of the repository, or of the folder. base: Folder or Hub id of the pipeline.
        scheduler: Of the order that was searched. provenance: What its `search.json` says, by numbers of steps.
        compared: By number of steps what was measured alike, best first: head and rows of a table.
        measured_by: The extractor and the reference, in words.
        license: An identifier of the Hub, or `unknown`. notes: What else is to be known of what was found, a sentence each.
        prompt: One that was searched with, where images are asked for by texts. text_encoder: Its name, where the pipeline is
            stored without.
    """
    shown, is_text = shown_name(base), takes_prompts(pipeline)
    task = "text-to-image" if is_text else "unconditional-image-generation"
    kind, order = type(pipeline).__name__, type(scheduler).__name__
    steps = sorted(map(int, provenance))
    rows, results = [], []
    for number, origin in sorted(provenance.items(), key=lambda item: int(item[0])):
        if "num_trials" not in origin.get("search", {}):  # of earlier code
            continue
        metric, images = readable(origin["metric_name"]), f"{origin['num_images']:,}"
        noise = "fresh noise" if origin.get("confirmed") else "the search's own noise, which flatters it"
        rows.append([
            number, escape(str(origin["sampler"])), f"{origin['search']['num_trials']:,} of {origin['search']['num_images']:,} images",
            f"{origin['value']:.4f}", f"{images}, {noise}", f"`{origin['extractor']}`", f"`{origin['pipeline']}`",
        ])  # fmt: skip
        called = f"{metric}, T = {number}, N = {images}"
        results.append(
            result(origin["metric_name"], origin["value"], f"reference {origin['reference']}", called, task)
        )
    load, own = (json.dumps(one, ensure_ascii=False) for one in (shown, name))
    example = "0" if prompt is None else json.dumps(prompt, ensure_ascii=False)
    import_text = load_text = ""
    if text_encoder is not None:
        import_text = "from transformers import AutoModel, AutoTokenizer\n"
        encoder = json.dumps(shown_name(text_encoder), ensure_ascii=False)
        load_text = (
            f", text_encoder=AutoModel.from_pretrained({encoder}), tokenizer=AutoTokenizer.from_pretrained({encoder})"
        )
    usage = code_block(
        f"{import_text}from diffusers_autonat import {', '.join(sorted([kind, order]))}\n\n"
        f"pipe = {kind}.from_pretrained({load}{load_text})\n"
        f"pipe.scheduler = {order}.from_pretrained({own})\n"
        f"image = pipe({example}, num_inference_steps={steps[-1]}).images[0]"
    )
    tables = [
        f"### T = {number}\n\n"
        + table([readable(name) for name in head], [[escape(cell) for cell in line] for line in lines])
        for number, (head, lines) in sorted(compared.items())
    ]
    tried = [f"`{file}`" for file in TRIED if Path(folder, file).exists()]
    pictures = [f"![{words}]({file})" for file, words in PICTURES.items() if Path(folder, file).exists()]
    save_card(folder, make_card(
        metadata(
            license, ["autonat", "scheduler", "searched-strategy"], pipeline_tag=task, base_model=base, name=name, results=results
        ),
        [
            f"# {Path(name).name}",
            f"Strategies of {', '.join(map(str, steps))} steps for {escape(shown)}, found by a search with {LIBRARY}: no weights, "
            "only what each step of sampling does.",
            usage,
            "Where a name is that of a folder, its path takes its place.",
            "## Found\n\n"
            + table(["T", "sampler", "trials", "value", "measured on", "by the extractor", "for the weights"], rows)
            + f"\n\nThe lower the better. {measured_by} `search.json` says what each value depends on, "
            f"{' and '.join(tried)} what was tried.",
            "\n\n".join(tables),
            *notes,
            *pictures,
            license_section(license),
        ],
    ))  # fmt: skip


PICTURES = {
    "schedules.png": "the schedules that were found, and where the search started",
    "history.png": "the trials",
    "front.png": "quality against cost",
    "rounds.png": "the rounds, in which strategies of generation and of training were searched in turn",
}
TRIED = ("result.json", "trials.csv", "alternating.json")

# What of a search's folder is uploaded: neither its journal, which names machines, nor its locks.
UPLOADED = (
    "README.md",
    "scheduler_config.json",
    "search.json",
    "strategy-T*.json",
    *TRIED,
    *PICTURES,
)
