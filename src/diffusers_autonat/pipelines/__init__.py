from .pipeline_autonat import AutoNATPipeline


__all__ = ["AutoNATPipeline"]
