from diffusers_autonat import AutoNATPipeline  # noqa: F401
