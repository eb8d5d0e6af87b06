"""Pipelines for other runtimes: transformer and decoder as graphs, in a folder that `from_pretrained` loads as any other."""

from .folder import export_pipeline
from .formats import FORMATS


__all__ = ["FORMATS", "export_pipeline"]
