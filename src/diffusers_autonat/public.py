"""The public names, and with them every class that a saved pipeline may hold: loading looks those up in modules that are
already imported, so whoever asks for one of the names imports all.
"""

# ruff: noqa: F401
# Their list stands where nothing has to be imported to read it.
from . import __all__
from .models.policy_adaptive import AdaptivePolicyModel
from .models.transformer_enat import ENATTransformer2DModel
from .models.transformer_uvit import UViTTransformer2DModel
from .pipelines.pipeline_autonat import AutoNATPipeline
from .pipelines.pipeline_autonat_amused import AutoNATAmusedPipeline
from .pipelines.pipeline_autonat_inpaint import AutoNATInpaintPipeline
from .pipelines.pipeline_autonat_text_to_image import AutoNATTextToImagePipeline
from .schedulers.scheduling_dilated import DilatedScheduler
from .schedulers.scheduling_entropy import EntropyBoundedScheduler, EntropyStrategy
from .schedulers.scheduling_halton import HaltonScheduler
from .schedulers.scheduling_nat import NATScheduler, NATSchedulerOutput
from .schedulers.scheduling_random import RandomScheduler
from .schedulers.scheduling_remdm import ReMDMScheduler, ReMDMStrategy
from .strategies import GenerationStrategy, StepParameters, TrainingStrategy
