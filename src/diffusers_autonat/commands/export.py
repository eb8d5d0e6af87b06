"""`diffusers-autonat export`."""

from __future__ import annotations

import argparse

from .arguments import check_writable


def run(args: argparse.Namespace) -> None:
    """Write a pipeline for ONNX Runtime or OpenVINO on a CPU; what takes a pipeline takes that folder too."""
    from ..export import export_pipeline

    check_writable(args.output)
    export_pipeline(args.pipeline, args.output, args.format, args.int8, args.int8_decoder)
    print(f"saved to {args.output}")


def register(commands) -> None:
    command = commands.add_parser(
        "export", help="write a pipeline for ONNX Runtime or OpenVINO", description=run.__doc__
    )
    command.add_argument("pipeline", help="folder or Hub id")
    command.add_argument("--format", required=True, choices=("onnx", "openvino"), help="what runs it")
    command.add_argument("--int8", action="store_true", help="the transformer's products in int8; see docs/export.md")
    command.add_argument("--int8-decoder", action="store_true", help="the decoder's convolutions in int8 (openvino)")
    command.add_argument("--output", required=True, help="folder; files of the same names in it are replaced")
    command.set_defaults(run=run)
