"""Reports: a number together with how it was made, as a table, and whether two of them may be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


SECTIONS = ("values", "images", "pipeline", "extractor", "reference", "run")
CLASSES = "class_consistency"
# Begin the names of values that need no reference.
OF_IMAGES_ALONE = (CLASSES, "classifier_score", "inception_score")
# What has to be equal for two numbers to be comparable, and what is wrong otherwise.
NECESSARY = {
    "extractor.weights_hash": "another network made the features",
    "extractor.preprocessing": "the network saw differently prepared images",
    "reference.hash": "the images were compared with another reference set",
    "images.num_images": "the distance and most scores depend on the number of images",
    "images.label_policy": "the images were of other classes",
}
# What the comparison may be about.
SUBJECT = ("images.kind", "images.source", "images.num_inference_steps", "images.strategy", "images.guidance_scale",
           "pipeline.transformer", "pipeline.vqvae", "pipeline.dtype")  # fmt: skip
REMARKS = {
    "images.seed": "noise and labels are other draws: differences within the noise over seeds mean nothing",
    "images.noise": "equal seeds are other draws where the noise was made on another kind of device",
    "extractor.batch_size": "other batch shapes may turn single grey levels",
    "run.hardware": "other hardware, or another number of threads, may turn single grey levels and tokens",
    "run.versions": "other versions of the software",
}

ASSUMED = "the reference does not say who made it; other programs' resizing shifts the distance to it"


def flatten(report: dict[str, Any], sections: tuple[str, ...] = SECTIONS) -> dict[str, Any]:
    """`{"section.key": value}` of the given sections; a section that is None has no keys."""
    return {f"{name}.{key}": value for name in sections for key, value in (report.get(name) or {}).items()}


def load_report(path: str | Path) -> dict[str, Any]:
    """Read a report that `diffusers-autonat evaluate` wrote."""
    try:
        report = json.loads(Path(path).read_text())
    except ValueError as error:  # also of what is no text
        raise ValueError(f"{path} is no JSON file ({error}).") from error
    sections = report if isinstance(report, dict) else {}
    missing = [name for name in SECTIONS if not isinstance(sections.get(name), dict)]
    if sections.get("reference", missing) is None:  # of scores that need none
        missing.remove("reference")
    if missing or not report["values"]:
        raise ValueError(f"{path} is no report of `evaluate`: it has no {', '.join(missing or ['values'])}.")
    return report


def format_report(report: dict[str, Any]) -> str:
    """The report as a table for the terminal: the values, and below them how they were made."""
    images, pipeline, extractor, reference, run = (report[name] for name in SECTIONS[1:])
    lines = [(name, f"{value:.4f}") for name, value in report["values"].items()]
    made = f"{images['num_images']:,} {images['kind']}"
    if images["kind"] == "generated":
        made += f", {images['label_policy']} labels, seed {images['seed']} ({images['noise']} noise)"
        source = images["strategy_source"]
        steps = f"T = {images['num_inference_steps']}, {source}, guidance x {images['guidance_scale']:g}"
        lines += [("images", made), ("strategy", steps)]
    else:
        lines += [("images", f"{made} from {images['source']}")]
    weights = f"transformer {pipeline['transformer']}, vqvae {pipeline['vqvae']}"
    lines += [("pipeline", f"{pipeline['name']}, {weights}, {pipeline['dtype']}")]
    kind = f"{'' if extractor['is_standard_inception'] else 'not '}the standard Inception network"
    features = f"{extractor['num_features']} features, {kind}"
    lines += [("extractor", f"{extractor['name']}, weights {extractor['weights_hash']}, {features}")]
    if reference:
        count = f", {reference['num_images']:,} images" if reference["num_images"] else ""
        lines += [("reference", f"{reference['source']}, hash {reference['hash']}{count}")]
        if reference.get("extractor") == "assumed":
            lines += [("", ASSUMED)]
    lines += [
        ("made with", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
        ("made on", f"{run['hardware']}, {run['num_processes']} process(es)"),
        ("took", f"{run['seconds']:.0f} s, {run['images_per_second']:.1f} images/s"),
        *(("warning", message) for message in report.get("warnings", [])),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Why two reports cannot be compared (empty if they can), and what to know when comparing them."""
    a, b = flatten(first), flatten(second)
    common = [name for name in first["values"] if name in second["values"]]
    if not common:
        return [f"they have no value in common: {', '.join(first['values'])}; {', '.join(second['values'])}"], []
    necessary = dict(NECESSARY)
    if all(name.startswith(OF_IMAGES_ALONE) for name in common):
        del necessary["reference.hash"]
    if common == [CLASSES]:
        # A share of recognised images does not drift with N.
        del necessary["images.num_images"]
    if {a.get("images.kind"), b.get("images.kind")} != {"generated"}:
        del necessary["images.label_policy"]
    if any(name.startswith(("kid", "kernel_distance", "precision")) for name in common):
        necessary["reference.feature_rows"] = "kernel and neighbour statistics used other rows of the reference"

    def different(keys: Any) -> list[str]:
        return [key for key in keys if a.get(key) != b.get(key)]

    def sides(key: str) -> str:
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            parts = [part for part in {**a[key], **b[key]} if a[key].get(part) != b[key].get(part)]
            return f"{key}: {', '.join(parts)}"
        short = [value if len(value := str(side.get(key))) <= 40 else value[:37] + "..." for side in (a, b)]
        return f"{key}: {short[0]} | {short[1]}"

    reasons = [f"{necessary[key]} ({sides(key)})" for key in different(necessary)]
    remarks = [f"differs: {sides(key)}" for key in different(SUBJECT)]
    remarks += [f"{REMARKS[key]} ({sides(key)})" for key in different(REMARKS)]
    if "assumed" in (a.get("reference.extractor"), b.get("reference.extractor")):
        remarks.append(f"{ASSUMED} ({sides('reference.extractor')})")
    return reasons, remarks


def format_comparison(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str]) -> str:
    """The verdict, the values side by side where it is yes, and what to know."""
    reasons, remarks = compare_reports(first, second)
    lines = [f"{names[0]} and {names[1]} are {'not ' if reasons else ''}comparable."]
    lines += [f"  because {reason}" for reason in reasons]
    if not reasons:
        common = [name for name in first["values"] if name in second["values"]]
        width = max(map(len, common))
        for name in common:
            left, right = first["values"][name], second["values"][name]
            lines.append(f"  {name:{width}}  {left:10.4f}  {right:10.4f}  difference {right - left:+.4f}")
    return "\n".join(lines + [f"  {remark}" for remark in remarks])
