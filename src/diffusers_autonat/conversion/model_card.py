"""The card of a converted pipeline: whose weights these are, under which terms, and how to use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from .checkpoint import Checkpoint
from .source_format import SourceFormat


CARD = """---
{metadata}
---

# {name}

{description}, as a diffusers {kind}: {parameters:,} parameters, {sizes}. Converted from
the released files with [diffusers-autonat](https://pypi.org/project/diffusers-autonat/).

```python
{usage}
```

## Where the weights come from

| file | becomes | SHA-256 |
|---|---|---|
{files}

{sources}

## What the conversion does

How far its result agrees with the authors' code was measured on the small models of the test suite of
diffusers-autonat, in float32.

{agreements}

## License

{licenses}

## Cite

```bibtex
{papers}
```
"""

PIPELINE_USAGE = """from diffusers_autonat import AutoNATPipeline, GenerationStrategy

pipe = AutoNATPipeline.from_pretrained("{name}")
image = pipe({label!r}).images[0]  # {stored}
image = pipe({label!r}, strategy=GenerationStrategy.cosine(6)).images[0]  # any other strategy"""

COMPONENT_USAGE = """from diffusers_autonat import NATScheduler, {model_class}

transformer = {model_class}.from_pretrained("{name}", subfolder="transformer")
scheduler = NATScheduler.from_pretrained("{name}", subfolder="scheduler")"""


def make_card(
    name: str,
    converted: list[tuple[SourceFormat, Checkpoint]],
    config: dict[str, Any],
    parameters: int,
    stored_steps: list[int],
    label: str | int,
) -> str:
    """
    Text of README.md.

    Args:
        name: What `from_pretrained` is given: the folder, or the Hub repository.
        converted: The transformer and, for a pipeline, the tokenizer, with the files they came from.
        config: The transformer's. parameters: Its number of parameters.
        stored_steps: Steps of the strategies in the scheduler. label: A class to show, for a pipeline.
    """
    sources = [source for source, _ in converted]
    main, is_pipeline = sources[0], len(sources) > 1 and sources[0].has_pipeline
    stored = f"the stored strategies have {stored_steps} steps" if stored_steps else "the heuristic strategy, 8 steps"
    if is_pipeline:
        usage = PIPELINE_USAGE.format(name=name, label=label, stored=stored)
    else:
        usage = COMPONENT_USAGE.format(name=name, model_class=main.model_class.__name__)
    metadata = ModelCardData(
        license=main.origin.license,
        license_name="see-license-section" if main.origin.license == "other" else None,
        library_name="diffusers",
        tags=["diffusers", "autonat", "masked-image-generation"],
    )
    return CARD.format(
        metadata=metadata.to_yaml(),
        name=Path(name).name,
        description=main.origin.description,
        kind="pipeline" if is_pipeline else "component",
        parameters=parameters,
        sizes=main.describe(config),
        usage=usage,
        files="\n".join(f"| `{file.path.name}` | `{one.component}` | `{file.sha256()}` |" for one, file in converted),
        sources="\n".join(
            f"- {one.title}: [{one.origin.code.split('/', 3)[-1]}]({one.origin.code}). "
            + " ".join(f"`{file}`: {place}." for file, place in one.origin.files.items())
            for one in sources
        ),
        agreements="\n".join(f"- {one.title}: {one.agreement}" for one in sources),
        licenses="\n\n".join(one.origin.license_note for one in sources),
        papers="\n\n".join(paper for one in sources for paper in one.origin.papers),
    )
