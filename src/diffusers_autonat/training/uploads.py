"""`--push_to_hub` of the training scripts: looked at before the training, done after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id

from ..cards import shown_folder
from ..hub import check_upload, open_repository, push_folder


def add_upload_arguments(group: Any) -> None:
    """The arguments of an upload and of the card, the same in every script."""
    group.add_argument("--push_to_hub", action="store_true", help="upload the result")
    group.add_argument("--hub_model_id", help="its name there; default: that of the folder")
    group.add_argument("--license", default="unknown", help="of the weights, for the card: an identifier of the Hub")


def check_uploads(args: Any) -> None:
    """`ValueError` for what would end the upload at once; asks nobody."""
    if args.hub_model_id:
        validate_repo_id(args.hub_model_id)
    if args.push_to_hub:
        check_upload(model_name(args), "--push_to_hub")


def open_upload(args: Any) -> None:
    """On the main process: make the repository, so that a wrong token or name is known before the training, and give its whole
    name to `args.hub_model_id`, for the card."""
    if args.push_to_hub:
        args.hub_model_id = open_repository(model_name(args), "--push_to_hub")


def upload(args: Any, folder: str | Path) -> None:
    """Upload what was trained, where that is wanted."""
    if args.push_to_hub:
        push_folder(args.hub_model_id, folder, "End of training")


def model_name(args: Any) -> str:
    """What cards call the model: its name on the Hub, or that of the folder."""
    return args.hub_model_id or Path(args.output_dir).resolve().name


def model_source(args: Any, part: str = "") -> str:
    """Where code on cards loads the model from: its name on the Hub, or the folder it is saved to, a `part` of the output's."""
    return args.hub_model_id or shown_folder(args.output_dir, part)
