"""Whether the values of two reports may be compared, and what to know when comparing them."""

from __future__ import annotations

from collections.abc import Iterable

from .registry import SECOND, metric_of
from .reports import ASSUMED, Report


# What has to be equal for two numbers to be comparable, and what is wrong otherwise.
NECESSARY = {
    "extractor.weights_hash": "another network made the features",
    "extractor.preprocessing": "the network saw differently prepared images",
    "reference.hash": "the images were compared with another reference set",
    "images.num_images": "the distance and most scores depend on the number of images",
    "images.label_policy": "the images were of other classes",
    "images.captions_hash": "the images were of other captions",
}
# The same of values that a second extractor gives.
NECESSARY_OF_SECOND = {
    "second_extractor.weights_hash": "another second network made the features",
    "second_extractor.preprocessing": "the second network saw differently prepared images",
    "second_reference.hash": "the second network's reference is another set",
}
# What the comparison may be about.
SUBJECT = ("images.kind", "images.source", "images.num_inference_steps", "images.strategy", "images.guidance_scale",
           "pipeline.transformer", "pipeline.vqvae", "pipeline.text_encoder", "pipeline.dtype")  # fmt: skip
REMARKS = {
    "images.seed": "noise and labels are other draws: differences within the noise over seeds mean nothing",
    "images.noise": "equal seeds are other draws where the noise was made on another kind of device",
    "extractor.batch_size": "other batch shapes may turn single grey levels",
    "run.hardware": "other hardware, or another number of threads, may turn single grey levels and tokens",
    "run.versions": "other versions of the software",
}


def compare_reports(first: Report, second: Report) -> tuple[list[str], list[str]]:
    """Why two reports cannot be compared (empty if they can), and what to know when comparing them."""
    common = [name for name in first.values if name in second.values]
    if not common:
        return [f"they have no value in common: {', '.join(first.values)}; {', '.join(second.values)}"], []
    a, b = first.flatten(), second.flatten()
    necessary = dict(NECESSARY)
    if any(name.startswith(SECOND) for name in common):
        necessary |= NECESSARY_OF_SECOND
    # A value that is not known here counts as one that depends on everything.
    metrics = [metric_of(name) for name in common]
    if not any(metric is None or metric.needs_reference for metric in metrics):
        del necessary["reference.hash"]
    if not any(metric is None or metric.depends_on_number for metric in metrics):
        del necessary["images.num_images"]
    if {a.get("images.kind"), b.get("images.kind")} != {"generated"}:
        del necessary["images.label_policy"], necessary["images.captions_hash"]
    if any(metric is not None and metric.needs_features for metric in metrics):
        necessary["reference.feature_rows"] = "kernel and neighbour statistics used other rows of the reference"

    def different(keys: Iterable[str]) -> list[str]:
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


def format_comparison(first: Report, second: Report, names: tuple[str, str]) -> str:
    """The verdict, the values side by side where it is yes, and what to know."""
    reasons, remarks = compare_reports(first, second)
    lines = [f"{names[0]} and {names[1]} are {'not ' if reasons else ''}comparable."]
    lines += [f"  because {reason}" for reason in reasons]
    if not reasons:
        common = [name for name in first.values if name in second.values]
        width = max(map(len, common))
        for name in common:
            left, right = first.values[name], second.values[name]
            lines.append(f"  {name:{width}}  {left:10.4f}  {right:10.4f}  difference {right - left:+.4f}")
    return "\n".join(lines + [f"  {remark}" for remark in remarks])
