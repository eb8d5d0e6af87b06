"""The sections of the shipped policies' cards, written from what lies in their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from card_texts import AUTONAT, CLONE, DATASETS, JUDGE, LIBRARY, PATHS, REPOSITORY, SECOND, minutes, read
from huggingface_hub import ModelCardData

from diffusers_autonat.cards import code_block, metadata, result, table


STEPS = (4, 8)  # numbers of steps that a policy is shipped for
DISTANCE, SECOND_DISTANCE, RECOGNISED = "frechet_distance", "second_frechet_distance", "class_consistency"


def folder_of(steps: int) -> Path:
    return Path(f"{AUTONAT.folder}-policy-T{steps}")


def card(steps: int) -> tuple[ModelCardData, list[str]]:
    """Metadata and sections of the card of the policy of T = `steps`."""
    folder = folder_of(steps)
    training = read(folder / "training.json")
    measured = {name: read(folder / "evaluation" / f"{name}.json") for name in ("strategy", "policy")}
    return _metadata(steps, measured["policy"]), [
        f"# A policy for AutoNAT on Fashion-MNIST, T = {steps}",
        f"A network of {training['parameters']:,} parameters that looks at the transformer's features of every image and sets r, "
        f"tau1, tau2 and s of\neach of {steps} steps for it (AdaNAT, [arXiv:2409.00342](https://huggingface.co/papers/2409.00342)), "
        f"trained with {LIBRARY} for\n`{AUTONAT.name}` {REPOSITORY}, whose weights stay as they are.",
        code_block(
            "import torch\nfrom diffusers_autonat import AdaptivePolicyModel, AutoNATPipeline\n\n"
            f'pipe = AutoNATPipeline.from_pretrained("{AUTONAT.name}")\n'
            f'pipe.register_modules(policy=AdaptivePolicyModel.from_pretrained("{(CLONE / folder).as_posix()}"))\n'
            'images = pipe(["Sneaker", "Bag"], generator=torch.Generator().manual_seed(0)).images'
        ),
        PATHS,
        "![of each class five images by the stored strategy, and five by the policy from the same noise](samples.png)",
        _quality(steps, measured),
        "## What it does\n\n![r, tau1, tau2 and s over steps, of all images and by class](policy.png)\n\n"
        "Bands hold half and nine tenths of 500 images; dashed is the strategy that it started from.\n\n"
        "![the images with the smallest and the largest guidance](extremes.png)",
        _training(training),
        "## Limits\n\n"
        f"- It reads the features of these weights and is of no use to others, nor for another number of steps than {steps}.\n"
        f"- It was rewarded by one classifier's distance (`{JUDGE}`); the second one's says how much of the gain is more than that "
        "one's liking.\n"
        "- Rewards, validations and the table above compare with the same 10,000 test images.\n"
        "- Single images look no better than those of the strategy ([samples](samples.png)); what the distances see is that as a set they are "
        "more like the test images.",
    ]


def _metadata(steps: int, report: dict[str, Any]) -> ModelCardData:
    values, on = report["values"], f"T = {steps}, N = {report['images']['num_images']:,}"
    results = [
        result(DISTANCE, values[DISTANCE], DATASETS[0], f"Fréchet distance of classifier features, {on}"),
        result("accuracy", values[RECOGNISED], DATASETS[0], f"recognised by the classifier, {on}"),
    ]
    return metadata("apache-2.0", ["autonat", "policy"], DATASETS, None, name=folder_of(steps).name, results=results)


def _quality(steps: int, measured: dict[str, dict[str, Any]]) -> str:
    images, pipeline = (measured["policy"][part] for part in ("images", "pipeline"))
    rows = []
    for name, label in (("strategy", "the strategy that the pipeline has stored"), ("policy", "this policy")):
        values, run = measured[name]["values"], measured[name]["run"]
        rows.append([
            label,
            *(f"{values[key]:.3f} +- {values[f'{key}_error']:.3f}" for key in (DISTANCE, SECOND_DISTANCE)),
            f"{values[RECOGNISED]:.1%}", f"{run['macs_per_image'] / 1e6:,.0f} M",
        ])  # fmt: skip
    run = measured["policy"]["run"]
    return "\n\n".join([
        "## Quality",
        table([f"T = {steps}, N = {images['num_images']:,}", "distance", "by the second classifier", "recognised",
               "multiply-accumulates"], rows),
        f"Fréchet distances on the features of `{JUDGE}` and `{CLONE / SECOND.folder}`\n{REPOSITORY}, which are **not** FID; after +- "
        f"the standard error. Fresh noise (seed {images['seed']}), balanced labels, {pipeline['dtype']};\nrecognised by the first "
        f"classifier. Measured on {run['hardware']}, torch {run['versions']['torch']} (`bash search/evidence.sh`).",
    ])  # fmt: skip


def _training(training: dict[str, Any]) -> str:
    start, best = training["start"], training["best"]
    rows = [
        [label, *(f"{row[key]:.3f}" for key in ("distance", "second_distance")), f"{row['class_consistency']:.1%}"]
        for label, row in (("at the start", start), (f"saved, update {best['step']}", best))
    ]
    return "\n\n".join([
        "## Training",
        f"PPO with the influence on the distance as reward, {training['updates']} updates of {training['images_per_update']:,} images, "
        f"seed {training['seed']},\n{minutes(training['seconds'])} on {training['hardware']} (`training/train_policy.py`, settings in "
        f"`search/evidence.sh` {REPOSITORY}). Of {training['seeds']} seeds it is the one that\ndid best on these "
        f"{training['validation_images']:,} images of validation, by both classifiers' distances multiplied:",
        table(["policy", "distance", "by the second classifier", "recognised"], rows),
        "![validations over updates](training.png)",
    ])  # fmt: skip
