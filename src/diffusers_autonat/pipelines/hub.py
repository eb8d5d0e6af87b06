"""Pipelines on the Hub: uploads with a card and `pipeline.py`, and downloads, which diffusers refuses for classes of others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import create_repo, snapshot_download

from ..cards import add_card
from .remote_code import FILE, save_remote_code


class HubMixin:
    """For pipelines, before `DiffusionPipeline` among the bases."""

    _upload_folder: Callable[..., str]

    @classmethod
    def download(
        cls,
        pretrained_model_name: str,
        cache_dir: str | None = None,
        force_download: bool = False,
        local_files_only: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        **kwargs: Any,
    ) -> str:
        """
        Fetch a pipeline from the Hub into the cache, as `from_pretrained` does with an id; returns its folder.

        DiffusionPipeline's own wants every component's module among diffusers' (as of 0.42), unless its code lies in the
        repository. Ours lie in this package, so no code is fetched and none has to be trusted.

        Args:
            pretrained_model_name (`str`): id on the Hub.
            cache_dir, force_download, local_files_only, token, revision, variant: As of every pipeline's.
            kwargs: Components that are passed to `from_pretrained` are not fetched.
        """
        asked: dict[str, Any] = {
            "cache_dir": cache_dir, "force_download": force_download, "local_files_only": bool(local_files_only), "token": token,
            "revision": revision,
        }  # fmt: skip
        config = cls.load_config(pretrained_model_name, **asked)  # type: ignore[attr-defined]
        folders = [name for name, value in config.items() if isinstance(value, (list, tuple)) and name not in kwargs]
        others = [] if variant else ["*/*.*.safetensors"]  # variants are called weights.VARIANT.safetensors
        return snapshot_download(
            pretrained_model_name,
            allow_patterns=[DiffusionPipeline.config_name, FILE, *(f"{name}/*" for name in folders)],
            # Weights in other formats, but not an exported component's: it is a `model.onnx` or `model.bin`.
            ignore_patterns=["*pytorch_model*.bin", "*.msgpack", "*.h5", *others],
            **asked,
        )

    def save_pretrained(
        self,
        save_directory: str | Path,
        *args: Any,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        token: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As every pipeline's; writes `pipeline.py` too, by which `DiffusionPipeline` finds this class."""
        save_remote_code(type(self), save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if push_to_hub:
            repo_id = repo_id or Path(save_directory).resolve().name
            repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
            add_card(self, save_directory, repo_id, token)
            self._upload_folder(save_directory, repo_id, token, commit_message, create_pr)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """
        As every pipeline's: upload it to a repository on the Hub, which is made where there is none. A repository that has
        no card gets one that says what the pipeline is, how to load it, and what its classes and strategies are.

        Args:
            repo_id (`str`): `owner/name`, or a name: then the owner of the token is its owner.
            commit_message, private, token, create_pr, safe_serialization, variant, subfolder: As of every pipeline's.

        Returns:
            `str`: The address of the commit.
        """
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            if not subfolder:
                add_card(self, folder, repo_id, token)
            return self._upload_folder(folder, repo_id, token, commit_message, create_pr, subfolder)
