"""The card of a converted pipeline: whose weights these are, under which terms, and how to use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cards import classes, code_block, make_card, metadata, table, usage
from ..cards.sections import LIBRARY
from .checkpoint import Checkpoint
from .source_format import Origin, SourceFormat


DATASETS = {  # on the Hub, by the name of the format: what its released weights were trained on
    "autonat": ["ILSVRC/imagenet-1k"],
    "adagen": ["ILSVRC/imagenet-1k"],
    "autonat-text": ["google-research-datasets/conceptual_captions"],
    "enat": ["ILSVRC/imagenet-1k"],
}

COMPONENT_USAGE = """from diffusers_autonat import NATScheduler, {model_class}

transformer = {model_class}.from_pretrained("{name}", subfolder="transformer")
scheduler = NATScheduler.from_pretrained("{name}", subfolder="scheduler")"""

NO_TOKENIZER = """

# The tokenizer, which makes images of tokens, is not here: `diffusers-autonat convert --vqgan FILE` adds it."""

NO_TOKENIZER_AND_ENCODER = """

# The tokenizer of images and the text encoder are not here: `diffusers-autonat convert --vqgan FILE --text-encoder NAME` adds
# them, which makes a pipeline."""

PROMPT = "a red boat on a lake"

OWN_WEIGHTS = "By their sizes these are not the released weights of {title}; who trained them sets their terms."

Parts = list[tuple[SourceFormat, Checkpoint, dict[str, Any]]]


def converted_card(
    name: str,
    converted: Parts,
    parameters: int,
    stored_steps: list[int],
    label: str | int,
    id2label: Mapping[int, str] | None = None,
    text_encoder: str = "",
) -> str:
    """
    Text of README.md.

    Args:
        name: What `from_pretrained` is given: the folder, or the Hub repository.
        converted: The transformer, and the tokenizer and the policy, if there are any, with the files they came from and their configs.
        parameters: The transformer's number of parameters.
        stored_steps: Steps of the strategies in the scheduler. label, id2label: A class to show, and all, for a pipeline.
        text_encoder: Name of a text-conditional pipeline's.
    """
    source, _, config = converted[0]
    is_pipeline = any(one[0].component == "vqvae" for one in converted)
    is_text = source.text_encoder is not None
    policy_steps = next((one[2]["num_inference_steps"] for one in converted if one[0].component == "policy"), None)
    is_released = source.origin.released(config)
    description = source.origin.description if is_released else f"A model in the format of {source.title}"
    return make_card(
        metadata(
            source.origin.license if is_released else "other",
            ["autonat", "text-conditional" if is_text else "class-conditional"],
            DATASETS.get(source.name, []) if is_released else [],
            "text-to-image" if is_text else "unconditional-image-generation",
        ),
        [
            f"# {Path(name).name}",
            f"{description}, as a diffusers {'pipeline' if is_pipeline else 'component'}: {parameters:,} parameters, "
            f"{source.describe(config)}. Converted with {LIBRARY}.",
            _pipeline_usage(name, stored_steps, PROMPT if is_text else label, is_text, policy_steps)
            if is_pipeline
            else _component_usage(name, source),
            "" if is_text else classes(id2label, config["num_classes"]),
            _origins(converted, text_encoder),
            "## What the conversion does\n\nHow far its result agrees with the authors' code was measured on the small models of "
            "the test suite of diffusers-autonat, in float32.\n\n"
            + "\n".join(f"- {one.title}: {one.agreement}" for one, _, _ in converted),
            _licenses(converted, text_encoder),
            "## Cite\n\n"
            + code_block(
                "\n\n".join(dict.fromkeys(paper for one, _, _ in converted for paper in one.origin.papers)), "bibtex"
            ),
        ],
    )


def _pipeline_usage(
    name: str, stored_steps: list[int], condition: str | int, is_text: bool, policy_steps: int | None
) -> str:
    stored = f"the stored strategies have {stored_steps} steps" if stored_steps else "the heuristic strategy, 8 steps"
    if policy_steps is not None:
        stored = f"the policy sets what each of its {policy_steps} steps does, image by image"
    return usage(
        name,
        f"image = pipe({condition!r}).images[0]  # {stored}\n"
        f"image = pipe({condition!r}, strategy=GenerationStrategy.cosine(6)).images[0]  # any other strategy",
        "AutoNATTextToImagePipeline" if is_text else "AutoNATPipeline",
        also=["GenerationStrategy"],
    )


def _component_usage(name: str, source: SourceFormat) -> str:
    lines = COMPONENT_USAGE.format(name=name, model_class=source.load_model_class().__name__)
    return code_block(lines + (NO_TOKENIZER if source.text_encoder is None else NO_TOKENIZER_AND_ENCODER))


def _origins(converted: Parts, text_encoder: str) -> str:
    files = [(f"`{file.path.name}`", f"`{one.component}`", f"`{file.sha256()}`") for one, file, _ in converted]
    places = [_where(one.origin, one.origin.released(config), one.title) for one, _, config in converted]
    places += [f"- Text encoder and its tokenizer: `{text_encoder}`, saved as they are."] * bool(text_encoder)
    return (
        "## Where the weights come from\n\n"
        + table(["file", "becomes", "SHA-256"], files)
        + "\n\n"
        + "\n".join(places)
    )


def _where(origin: Origin, is_released: bool, title: str) -> str:
    code = f"[{origin.code.split('/', 3)[-1]}]({origin.code})"
    if not is_released:
        return f"- {title}: trained by somebody else than the authors of {code}, whose format they have."
    return f"- {title}: {code}. " + " ".join(f"`{file}`: {place}." for file, place in origin.files.items())


def _licenses(converted: Parts, text_encoder: str) -> str:
    notes = [
        one.origin.license_note if one.origin.released(config) else OWN_WEIGHTS.format(title=one.title)
        for one, _, config in converted
    ]
    notes += [f"The text encoder has the terms of `{text_encoder}`."] * bool(text_encoder)
    return "\n\n".join(["## License", *dict.fromkeys(notes)])
