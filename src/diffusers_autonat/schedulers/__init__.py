from .scheduling_nat import NATScheduler, NATSchedulerOutput


__all__ = ["NATScheduler", "NATSchedulerOutput"]
