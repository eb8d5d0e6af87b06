"""`diffusers-autonat completion`."""

from __future__ import annotations

import argparse


SHELLS = ("bash", "zsh", "tcsh")


def run(args: argparse.Namespace) -> None:
    """Print a script by which the shell completes commands and options, without starting Python at each Tab.

    bash: eval "$(diffusers-autonat completion bash)" in ~/.bashrc
    zsh:  diffusers-autonat completion zsh > a file _diffusers-autonat in a folder of $fpath
    """
    try:
        import shtab
    except ImportError:
        raise ValueError('completion needs shtab: pip install "diffusers-autonat[completion]"') from None
    print(shtab.complete(args.command_line, args.shell))


def register(commands) -> None:
    command = commands.add_parser("completion", help="let the shell complete this command", description=run.__doc__)
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(run=run)
