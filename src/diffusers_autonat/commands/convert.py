"""`diffusers-autonat convert`."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial

from ..command_line import positive, whole
from ..conversion import SOURCES


def run(args: argparse.Namespace) -> None:
    """Turn the authors' released weights into a folder that `from_pretrained` loads."""
    from ..conversion.folder import convert_to_folder, read_id2label
    from ..strategy_files import read_strategies

    strategies = [strategy for path in args.strategy for strategy in read_strategies(path)]
    options = {name: getattr(args, name) for name in _assumed() if getattr(args, name) is not None}
    id2label = read_id2label(args.id2label) if args.id2label else None
    if args.push_to_hub:
        check_repository(args.push_to_hub)
    # So that a run which is stopped politely takes away what it has begun to write, as one that breaks does.
    before = signal.signal(signal.SIGTERM, end)
    try:
        convert_to_folder(
            args.model,
            args.checkpoint,
            args.output,
            vqgan=args.vqgan,
            policy=args.policy,
            strategies=strategies,
            options=options,
            id2label=id2label,
            text_encoder=args.text_encoder,
            pad_token_id=args.pad_token_id,
            name=args.push_to_hub,
            report=partial(print, flush=True),
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    if args.push_to_hub:
        from ..hub import push_folder

        push_folder(args.push_to_hub, args.output)


def end(number: int, _: object) -> None:
    """A signal's handler: the status is the one that a shell gives who ends by it."""
    print("diffusers-autonat: terminated, nothing was written.", file=sys.stderr)
    sys.exit(128 + number)


def check_repository(repository: str) -> None:
    """As `check_upload`; the card names the repository, so it needs an owner too."""
    from ..hub import check_upload

    check_upload(repository, "--push-to-hub")
    if "/" not in repository:
        raise ValueError(f"--push-to-hub {repository} names no owner: write OWNER/{repository}, as the card will.")


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
    command.add_argument("--model", required=True, choices=models, help="what the checkpoint is")
    command.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="the transformer: a file, or a training checkpoint's folder",
    )
    command.add_argument(
        "--vqgan", metavar="FILE", help="the tokenizer, vqgan_jax_strongaug.ckpt; without it no pipeline is made"
    )
    command.add_argument(
        "--policy",
        metavar="FILE",
        help="a policy of AdaGen or AdaNAT, maskgit_policy.pth, which sets each step's parameters",
    )
    command.add_argument(
        "--strategy", nargs="+", action="extend", default=[], metavar="FILE",
        help="to store in the scheduler, one for each number of steps: the authors' YAML, or JSON as a search writes it",
    )  # fmt: skip
    for name, values in _assumed().items():
        defaults = ", ".join(f"{value} for {model}" for model, value in values.items())
        help = f"no tensor shows it; default, as in the released model: {defaults}"
        command.add_argument(f"--{name.replace('_', '-')}", type=positive, metavar="N", help=help)
    command.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="of autonat-text: a folder or Hub id, saved into the pipeline; needs --vqgan",
    )
    command.add_argument(
        "--pad-token-id",
        type=whole(0),
        metavar="N",
        help="prompts are padded with; default, as in the released model: 0",
    )
    command.add_argument("--id2label", metavar="FILE", help="class names: `imagenet`, or a JSON file of id -> name")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder")
    command.add_argument("--push-to-hub", metavar="REPO", help="upload the folder to this Hub repository")
    command.set_defaults(run=run)
