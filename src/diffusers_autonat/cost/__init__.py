"""What images cost in multiply-accumulates, and the papers' own tables computed again."""

from .counting import Macs, PipelineCost, pipeline_cost


__all__ = ["Macs", "PipelineCost", "pipeline_cost"]
