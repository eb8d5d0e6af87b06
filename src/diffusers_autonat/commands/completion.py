"""`diffusers-autonat completion`."""

from __future__ import annotations

import argparse

from .scripts import add_options


SHELLS = ("bash", "zsh", "tcsh")


def run(args: argparse.Namespace) -> None:
    """Print a script by which the shell completes commands and options, without starting Python at each Tab.

    bash: diffusers-autonat completion bash > FILE, and `source FILE` in ~/.bashrc
    zsh:  diffusers-autonat completion zsh > a file _diffusers-autonat in a folder of $fpath

    It takes some seconds, and knows the options of `train` and `search` where their extras are installed.
    """
    try:
        import shtab
    except ImportError:
        raise ValueError('completion needs shtab: pip install "diffusers-autonat[completion]"') from None
    add_options(args.commands)
    print(shtab.complete(args.command_line, args.shell))


def register(commands) -> None:
    command = commands.add_parser("completion", help="let the shell complete this command", description=run.__doc__)
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(run=run, commands=commands)
