"""What images cost in multiply-accumulates, and the papers' own tables computed again."""

from .counting import CostVaries, Macs, PipelineCost, measured_costs, pipeline_cost
from .passes import PassCounter


__all__ = ["CostVaries", "Macs", "PassCounter", "PipelineCost", "measured_costs", "pipeline_cost"]
