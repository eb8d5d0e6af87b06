"""The card of a converted pipeline: whose weights these are, under which terms, and how to use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from .checkpoint import Checkpoint
from .source_format import Origin, SourceFormat


CARD = """---
{metadata}
---

# {name}

{description}, as a diffusers {kind}: {parameters:,} parameters, {sizes}. Converted with
[diffusers-autonat](https://pypi.org/project/diffusers-autonat/).

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

DECODE_USAGE = """

from diffusers import VQModel

vqvae = VQModel.from_pretrained("{name}", subfolder="vqvae")
with torch.no_grad():
    shape = (len(tokens), {side}, {side}, {width})
    images = vqvae.decode(tokens, force_not_quantize=True, shape=shape).sample.clamp(0, 1)  # [B, 3, height, width]"""

NO_TOKENIZER = """

# The tokenizer, which makes images of tokens, is not here: `diffusers-autonat convert --vqgan FILE` adds it."""

OWN_WEIGHTS = "By their sizes these are not the released weights of {title}; who trained them sets their terms."


def _where(origin: Origin, is_released: bool, title: str) -> str:
    code = f"[{origin.code.split('/', 3)[-1]}]({origin.code})"
    if not is_released:
        return f"- {title}: trained by somebody else than the authors of {code}, whose format they have."
    return f"- {title}: {code}. " + " ".join(f"`{file}`: {place}." for file, place in origin.files.items())


def make_card(
    name: str,
    converted: list[tuple[SourceFormat, Checkpoint, dict[str, Any]]],
    parameters: int,
    stored_steps: list[int],
    label: str | int,
) -> str:
    """
    Text of README.md.

    Args:
        name: What `from_pretrained` is given: the folder, or the Hub repository.
        converted: The transformer and the tokenizer, if there is one, with the files they came from and their configs.
        parameters: The transformer's number of parameters.
        stored_steps: Steps of the strategies in the scheduler. label: A class to show, for a pipeline.
    """
    sources, config = [source for source, _, _ in converted], converted[0][2]
    released = [source.origin.released(sizes) for source, _, sizes in converted]
    main, is_pipeline = sources[0], len(sources) > 1 and sources[0].has_pipeline
    stored = f"the stored strategies have {stored_steps} steps" if stored_steps else "the heuristic strategy, 8 steps"
    if is_pipeline:
        usage = PIPELINE_USAGE.format(name=name, label=label, stored=stored)
    else:
        usage = (main.usage or COMPONENT_USAGE).format(name=name, model_class=main.model_class.__name__, **config)
        if len(sources) > 1:
            usage += DECODE_USAGE.format(name=name, side=config["sample_size"], width=converted[1][2]["vq_embed_dim"])
        else:
            usage += NO_TOKENIZER
    license = main.origin.license if released[0] else "other"
    metadata = ModelCardData(
        license=license,
        license_name="see-license-section" if license == "other" else None,
        library_name="diffusers",
        tags=["diffusers", "autonat", "masked-image-generation"],
    )
    return CARD.format(
        metadata=metadata.to_yaml(),
        name=Path(name).name,
        description=main.origin.description if released[0] else f"A model in the format of {main.title}",
        kind="pipeline" if is_pipeline else "component",
        parameters=parameters,
        sizes=main.describe(config),
        usage=usage,
        files="\n".join(
            f"| `{file.path.name}` | `{one.component}` | `{file.sha256()}` |" for one, file, _ in converted
        ),
        sources="\n".join(_where(one.origin, is_released, one.title) for one, is_released in zip(sources, released)),
        agreements="\n".join(f"- {one.title}: {one.agreement}" for one in sources),
        licenses="\n\n".join(
            one.origin.license_note if is_released else OWN_WEIGHTS.format(title=one.title)
            for one, is_released in zip(sources, released)
        ),
        papers="\n\n".join(paper for one in sources for paper in one.origin.papers),
    )
