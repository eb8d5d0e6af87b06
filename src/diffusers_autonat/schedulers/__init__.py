from .scheduling_dilated import DilatedScheduler
from .scheduling_entropy import EntropyBoundedScheduler, EntropyStrategy
from .scheduling_halton import HaltonScheduler
from .scheduling_nat import NATScheduler, NATSchedulerOutput
from .scheduling_random import RandomScheduler
from .scheduling_remdm import ReMDMScheduler, ReMDMStrategy


__all__ = [
    "DilatedScheduler",
    "EntropyBoundedScheduler",
    "EntropyStrategy",
    "HaltonScheduler",
    "NATScheduler",
    "NATSchedulerOutput",
    "RandomScheduler",
    "ReMDMScheduler",
    "ReMDMStrategy",
]
