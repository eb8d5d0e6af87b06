from .pipeline_autonat import AutoNATPipeline
from .pipeline_autonat_amused import AutoNATAmusedPipeline
from .pipeline_autonat_inpaint import AutoNATInpaintPipeline
from .pipeline_autonat_text_to_image import AutoNATTextToImagePipeline


__all__ = ["AutoNATAmusedPipeline", "AutoNATInpaintPipeline", "AutoNATPipeline", "AutoNATTextToImagePipeline"]
