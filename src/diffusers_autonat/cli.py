"""`diffusers-autonat`: use pipelines from the shell."""

from __future__ import annotations

import argparse
import sys

from .command_line import error_text
from .commands import compare, convert, cost, evaluate, generate, reference


COMMANDS = (generate, evaluate, compare, reference, cost, convert)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="diffusers-autonat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except Exception as error:
        text = error_text(error)
        if text is None:
            raise
        sys.exit(f"diffusers-autonat: {text}")


if __name__ == "__main__":
    main()
