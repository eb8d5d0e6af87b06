# diffusers runs this file of all folders in one module, and wants one class there: what another has left goes.
for _name in [name for name, value in globals().items() if isinstance(value, type)]:
    del globals()[_name]

from diffusers_autonat import AutoNATTextToImagePipeline  # noqa: E402, F401
