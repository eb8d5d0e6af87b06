"""The card of a classifier that was trained as a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from ..cards import classes, code_block, license_fields, license_section, make_card, result, shell_command, table
from ..cards.sections import LIBRARY
from ..provenance import hardware
from .model_card import data_name, dataset_ids, launched, shown_versions
from .uploads import model_name, model_source


def judge_card(args: Any, names: Sequence[str], trained: Mapping[str, Any]) -> str:
    """
    Text of README.md.

    Args:
        args: Of `train_classifier.py`, whose command line (`sys.argv`) is shown without this machine's folders.
        names: Of the classes. trained: What its `training.json` tells.
    """
    name, task = model_name(args), "image-classification"
    source = model_source(args)
    loaded = json.dumps(source, ensure_ascii=False)
    data = ModelCardData(
        library_name="transformers",
        **license_fields(args.license),
        pipeline_tag=task,
        datasets=dataset_ids(args.dataset_name) or None,
        tags=["evaluation"],
        model_name=name,
        eval_results=[
            result("accuracy", one["accuracy"], data_name(args), f"accuracy, {what}", task)
            for what, one in trained["tested_on"].items()
        ],
    )
    tested = [[what, f"{one['images']:,}", f"{one['accuracy']:.2%}"] for what, one in trained["tested_on"].items()]
    settings = {
        "command": launched(),
        "images": f"{trained['train_images']:,}, seen {trained['epochs']} times",
        "wall time": f"{trained['wall_time_s'] / 60:.0f} minutes, on {hardware()}",
        "versions": shown_versions("torch", "transformers", "accelerate"),
        "seed": str(trained["seed"]),
    }
    return make_card(
        data,
        [
            f"# {name}",
            f"A RegNet of {trained['parameters']:,} parameters, trained with {LIBRARY} to judge what is drawn: whether images "
            "show what they were asked for, and how far its features of them are from those of real ones. A distance on these "
            "features is not FID.",
            code_block(
                "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
                f"processor = AutoImageProcessor.from_pretrained({loaded}, backend=\"pil\")\n"
                f"model = AutoModelForImageClassification.from_pretrained({loaded})"
            ),
            code_block(
                f"diffusers-autonat evaluate PIPELINE --reference IMAGES --feature-extractor {shell_command([source])} "
                "--metrics fid,class --output report.json",
                "bash",
            ),
            "## Tested\n\n" + table(["images", "number", "recognised"], tested),
            "## Training\n\n" + table(["", ""], settings.items()),
            classes(dict(enumerate(names)), len(names)),
            license_section(args.license),
        ],
    )  # fmt: skip
