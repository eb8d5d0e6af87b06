"""Uploads to the Hub: what would end one is said before anything slow begins, and nothing is lost where one fails.

A token is only ever read by huggingface_hub; it stands in no message and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import create_repo, get_token, is_offline_mode, upload_folder
from huggingface_hub.utils import validate_repo_id


def check_upload(repository: str, option: str) -> None:
    """`ValueError` for what would end an upload at once, without asking the Hub.

    Args:
        repository: `owner/name`, or a name alone: then the owner of the token is its owner.
        option: What asks for the upload, for errors.
    """
    validate_repo_id(repository)
    if is_offline_mode():
        raise ValueError(
            f"{option}: HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it, or leave {option} out."
        )
    if get_token() is None:
        raise ValueError(f"{option} needs a login: run `hf auth login` or set HF_TOKEN.")


def open_repository(repository: str, option: str) -> str:
    """Make the repository where there is none, so that a wrong token or name is known before the work; returns `owner/name`.

    Raises:
        ValueError: as `check_upload`. OSError: the Hub cannot be reached, or refuses.
    """
    check_upload(repository, option)
    try:
        return create_repo(repository, exist_ok=True).repo_id
    except Exception as error:
        raise OSError(f"{option}: {repository} cannot be made or used on the Hub: {reason_of(error)}") from None


def push_folder(
    repository: str, folder: str | Path, message: str | None = None, patterns: Sequence[str] | None = None
) -> None:
    """Upload a folder, or those of its files that `patterns` name, and print where it is.

    Raises:
        OSError: it was not uploaded; says how to do it by hand.
    """
    try:
        create_repo(repository, exist_ok=True)
        allowed = None if patterns is None else list(patterns)
        url = upload_folder(repo_id=repository, folder_path=folder, commit_message=message, allow_patterns=allowed)
        print(f"pushed to {url}")
    except Exception as error:  # whatever the network makes the client raise
        chosen = "".join(f" --include '{pattern}'" for pattern in patterns or ())
        raise OSError(
            f"{folder} is complete, but it was not pushed to {repository}: {reason_of(error)} Try again with"
            f" `hf upload {repository} {folder}{chosen}`."
        ) from None


def reason_of(error: Exception) -> str:
    """The first line of what a client raises."""
    return (str(error).splitlines() or [type(error).__name__])[0]
