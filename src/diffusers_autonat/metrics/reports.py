"""A report: values together with how they were made, as a JSON file and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_json


SECTIONS = ("values", "images", "pipeline", "extractor", "reference", "run")
OF_SECOND = ("second_extractor", "second_reference")  # only in reports with a second extractor
ASSUMED = "the reference does not say who made it; other programs' resizing shifts the distance to it"


@dataclass
class Report:
    """Values of one evaluation and everything that they depend on, as the JSON data that is written.

    Args:
        values: by name.
        images: how they were made: `kind` (`generated` or `reconstructed`), `num_images`, and what else is to be said.
        pipeline: what made them: `name`, `class`, hashes of its parts, `dtype`.
        extractor: `FeatureExtractor.identity()`.
        reference: `Reference.describe()`; None where no metric needs one.
        run: seconds, machine and versions, on which values should not depend.
        second_extractor, second_reference: of values that begin with `second_`; None where there are none.
        warnings: what was said meanwhile.
    """

    values: dict[str, float]
    images: dict[str, Any]
    pipeline: dict[str, Any]
    extractor: dict[str, Any]
    reference: dict[str, Any] | None
    run: dict[str, Any]
    second_extractor: dict[str, Any] | None = None
    second_reference: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report that `diffusers-autonat evaluate` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            data = json.loads(Path(path).read_text())
        except ValueError as error:  # also of what is no text
            raise ValueError(f"{path} is no JSON file ({error}).") from error
        sections = data if isinstance(data, dict) else {}
        missing = [name for name in SECTIONS if not isinstance(sections.get(name), dict)]
        if sections.get("reference", missing) is None:  # of scores that need none
            missing.remove("reference")
        if missing or not sections["values"]:
            raise ValueError(f"{path} is no report of `evaluate`: it has no {', '.join(missing or ['values'])}.")
        found = {name: sections[name] for name in SECTIONS} | {name: sections.get(name) for name in OF_SECOND}
        return cls(**found, warnings=sections.get("warnings", []))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, {name: value for name, value in asdict(self).items() if name not in OF_SECOND or value})

    def flatten(self, sections: Iterable[str] = SECTIONS + OF_SECOND) -> dict[str, Any]:
        """`{"section.key": value}` of the given sections; one that is None has no keys."""
        return {f"{name}.{key}": value for name in sections for key, value in (getattr(self, name) or {}).items()}

    def identity(self) -> dict[str, Any]:
        """What the values depend on: all but themselves and the run, by name."""
        # Through JSON, so that it compares equal with what was read from a file.
        return json.loads(json.dumps(self.flatten(("images", "pipeline", "extractor", "reference", *OF_SECOND))))

    def __str__(self) -> str:
        """A table for the terminal: the values, and below them how they were made."""
        images, pipeline, extractor, reference, run = (getattr(self, name) for name in SECTIONS[1:])
        lines = [(name, f"{value:.4f}") for name, value in self.values.items()]
        made = f"{images['num_images']:,} {images['kind']}"
        if images["kind"] == "generated":
            asked = (
                f"{images['label_policy']} labels" if "label_policy" in images else f"captions of {images['captions']}"
            )
            made += f", {asked}, seed {images['seed']} ({images['noise']} noise)"
            source = images["strategy_source"]
            steps = f"T = {images['num_inference_steps']}, {source}, guidance x {images['guidance_scale']:g}"
            lines += [("images", made), ("strategy", steps)]
        else:
            lines += [("images", f"{made} from {images['source']}")]
        weights = f"transformer {pipeline['transformer']}, vqvae {pipeline['vqvae']}"
        lines += [("pipeline", f"{pipeline['name']}, {weights}, {pipeline['dtype']}")]
        lines += _measured_by("", extractor, reference)
        if self.second_extractor:
            lines += _measured_by("second ", self.second_extractor, self.second_reference)
        lines += [
            ("made with", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
            ("made on", f"{run['hardware']}, {run['num_processes']} process(es)"),
            *_cost(run),
            ("took", f"{run['seconds']:.0f} s, {run['images_per_second']:.1f} images/s"),
            *(("warning", message) for message in self.warnings),
        ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def _measured_by(which: str, extractor: dict[str, Any], reference: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """An extractor and what it compares with."""
    kind = f"{'' if extractor['is_standard_inception'] else 'not '}the standard Inception network"
    features = f"{extractor['num_features']} features, {kind}"
    yield f"{which}extractor", f"{extractor['name']}, weights {extractor['weights_hash']}, {features}"
    if reference:
        count = f", {reference['num_images']:,} images" if reference["num_images"] else ""
        yield f"{which}reference", f"{reference['source']}, hash {reference['hash']}{count}"
        if reference.get("extractor") == "assumed":
            yield "", ASSUMED


def _cost(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What an image took; reports of before, and of no generated images, do not say."""
    if "passes_per_image" in run:
        macs = f", {run['macs_per_image'] / 1e9:.3g} G multiply-accumulates" if "macs_per_image" in run else ""
        yield "cost", f"{run['passes_per_image']:g} passes of the transformer{macs} an image"
