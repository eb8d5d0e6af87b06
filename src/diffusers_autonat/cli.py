"""`diffusers-autonat`: use pipelines from the shell."""

from __future__ import annotations

import sys

from .command_line import Parser, one_line_errors
from .commands import compare, completion, convert, cost, evaluate, export, generate, plot, reference, scripts


COMMANDS = (generate, evaluate, compare, reference, cost, convert, export, plot, scripts, completion)


def make_parser() -> Parser:
    parser = Parser(prog="diffusers-autonat", description=__doc__)
    parser.set_defaults(command_line=parser)  # for `completion`
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: list[str] | None = None) -> None:
    with one_line_errors("diffusers-autonat"):
        if not scripts.run_script(sys.argv[1:] if argv is None else argv):
            args = make_parser().parse_args(argv)
            args.run(args)


if __name__ == "__main__":
    main()
