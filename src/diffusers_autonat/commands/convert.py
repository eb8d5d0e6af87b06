"""`diffusers-autonat convert`."""

from __future__ import annotations

import argparse
from functools import partial

from ..conversion import SOURCES
from .arguments import positive, read_strategies


def run(args: argparse.Namespace) -> None:
    """Turn the authors' released weights into a folder that `from_pretrained` loads."""
    from huggingface_hub import create_repo, upload_folder

    from ..conversion.folder import convert_to_folder, read_id2label

    strategies = [strategy for path in args.strategy for strategy in read_strategies(path)]
    options = {name: getattr(args, name) for name in _assumed() if getattr(args, name) is not None}
    id2label = read_id2label(args.id2label) if args.id2label else None
    convert_to_folder(
        args.model,
        args.checkpoint,
        args.output,
        vqgan=args.vqgan,
        strategies=strategies,
        options=options,
        id2label=id2label,
        name=args.push_to_hub,
        report=partial(print, flush=True),
    )
    if args.push_to_hub:
        create_repo(args.push_to_hub, exist_ok=True)
        print(f"pushed to {upload_folder(repo_id=args.push_to_hub, folder_path=args.output)}")


def _assumed() -> dict[str, dict[str, int]]:
    """What no tensor shows: option -> format -> the released model's value."""
    assumed: dict[str, dict[str, int]] = {}
    for source in SOURCES:
        for name, value in source.assumed.items():
            assumed.setdefault(name, {})[source.name] = value
    return assumed


def register(commands) -> None:
    command = commands.add_parser("convert", help="released weights to a diffusers folder", description=run.__doc__)
    models = [source.name for source in SOURCES if source.component == "transformer"]
    command.add_argument("--model", required=True, choices=models)
    command.add_argument("--checkpoint", required=True, help="the transformer: a file, or a training checkpoint's folder")
    command.add_argument("--vqgan", help="the tokenizer, vqgan_jax_strongaug.ckpt; without it no pipeline is made")
    command.add_argument("--strategy", nargs="*", default=[], help="strategy files or what a search wrote (YAML or JSON)")
    for name, values in _assumed().items():
        defaults = ", ".join(f"{value} for {model}" for model, value in values.items())
        help = f"no tensor shows it; default, as in the released model: {defaults}"
        command.add_argument(f"--{name.replace('_', '-')}", type=positive, help=help)
    command.add_argument("--id2label", help="class names: `imagenet`, or a JSON file of id -> name")
    command.add_argument("--output", required=True, help="new folder")
    command.add_argument("--push-to-hub", metavar="REPO", help="upload the folder to this Hub repository")
    command.set_defaults(run=run)
