"""`diffusers-autonat compare`."""

from __future__ import annotations

import argparse
import sys

from .environment import require_metrics


def run(args: argparse.Namespace) -> None:
    """Say whether the values of two reports of `evaluate` may be compared, why not, and what else to know.

    Exit status 1 where they may not.
    """
    require_metrics("compare")
    from ..metrics.comparison import compare_reports, format_comparison
    from ..metrics.reports import Report

    first, second = Report.load(args.first), Report.load(args.second)
    print(format_comparison(first, second, (args.first, args.second)))
    if compare_reports(first, second)[0]:
        sys.exit(1)


def register(commands) -> None:
    command = commands.add_parser("compare", help="whether two reports are comparable", description=run.__doc__)
    command.add_argument("first", metavar="A", help="a report of evaluate")
    command.add_argument("second", metavar="B", help="another")
    command.set_defaults(run=run)
