"""Three nodes: load a pipeline, generate, inpaint. ComfyUI's images are float `[B, H, W, 3]` in [0, 1], its masks `[B, H, W]`, 1
where something is to be drawn."""

import torch

from diffusers_autonat import AutoNATInpaintPipeline, GenerationStrategy
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.pipelines.prompts import takes_prompts


CATEGORY = "AutoNAT"
PIPELINE = "AUTONAT_PIPELINE"
MAX_SEED = 2**64 - 1
HEURISTICS = {"cosine": GenerationStrategy.cosine, "enat": GenerationStrategy.enat}

SAMPLING = {
    "text": ("STRING", {"default": "0", "multiline": False, "tooltip": "a class, by name or id; or a prompt"}),
    "steps": ("INT", {"default": 0, "min": 0, "max": 256, "tooltip": "T; 0: the longest that is stored, or 8"}),
    "strategy": (["stored", *HEURISTICS], {"default": "stored", "tooltip": "stored in the pipeline, or a heuristic"}),
    "remasking_temperature": (
        "FLOAT",
        {
            "default": 4.5,
            "min": 0.0,
            "max": 100.0,
            "step": 0.1,
            "tooltip": "lambda of a heuristic; of enat rather 1.5",
        },
    ),
    "guidance_scale": (
        "FLOAT",
        {
            "default": 3.0,
            "min": 0.0,
            "max": 100.0,
            "step": 0.1,
            "tooltip": "k of a heuristic, of enat rather 2.5; not used with stored",
        },
    ),
    "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True}),
}


class AutoNATLoader:
    """A pipeline from a folder or the Hub, on the GPU where there is one."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = (PIPELINE,), ("pipeline",)

    @classmethod
    def INPUT_TYPES(cls):
        encoder = (
            "STRING",
            {"default": "", "tooltip": "folder, or id on the Hub, where the pipeline is stored without its own"},
        )
        return {
            "required": {"pipeline": ("STRING", {"default": "", "tooltip": "folder, or id on the Hub"})},
            "optional": {"text_encoder": encoder},
        }

    def load(self, pipeline, text_encoder=""):
        return (load_pipeline(pipeline, device=default_device(), text_encoder=text_encoder or None),)


class AutoNATGenerate:
    """Images of a class or a prompt; each has its own seed, one more than the last."""

    CATEGORY, FUNCTION = CATEGORY, "generate"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("images",)

    @classmethod
    def INPUT_TYPES(cls):
        batch = {"batch_size": ("INT", {"default": 1, "min": 1, "max": 64})}
        return {"required": {"pipeline": (PIPELINE,), **SAMPLING, **batch}}

    def generate(self, pipeline, text, steps, strategy, remasking_temperature, guidance_scale, seed, batch_size):
        images = pipeline(
            **asked(pipeline, text),
            **chosen(pipeline, steps, strategy, remasking_temperature, guidance_scale),
            num_images_per_prompt=batch_size,
            generator=generators(seed, batch_size),
            output_type="pt",
        ).images
        return (to_comfy(images),)


class AutoNATInpaint:
    """Images with what their masks mark drawn anew; all other pixels stay."""

    CATEGORY, FUNCTION = CATEGORY, "inpaint"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("images",)

    @classmethod
    def INPUT_TYPES(cls):
        strength = {"strength": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 1.0, "step": 0.01})}
        return {"required": {"pipeline": (PIPELINE,), "image": ("IMAGE",), "mask": ("MASK",), **SAMPLING, **strength}}

    def inpaint(
        self, pipeline, image, mask, text, steps, strategy, remasking_temperature, guidance_scale, seed, strength
    ):
        edit = AutoNATInpaintPipeline(**pipeline.components)
        pixels = image[..., :3].movedim(-1, 1)
        if edit.vqvae.config.in_channels == 1:
            pixels = pixels.mean(dim=1, keepdim=True)
        count = max(len(image), len(mask))
        images = edit(
            pixels.clamp(0, 1),
            mask[:, None].clamp(0, 1),
            **asked(edit, text),
            **chosen(edit, steps, strategy, remasking_temperature, guidance_scale),
            strength=strength,
            keep_unmasked=True,
            generator=generators(seed, count),
            output_type="pt",
        ).images
        return (to_comfy(images),)


def asked(pipeline, text):
    """The text as a prompt, or as a class."""
    if takes_prompts(pipeline) or getattr(pipeline, "is_text_conditional", False):
        return {"prompt": text}
    return {"class_labels": int(text) if text.strip().isdigit() else text}


def chosen(pipeline, steps, strategy, remasking_temperature, guidance_scale):
    if strategy == "stored":
        return {"num_inference_steps": steps or None}
    steps = steps or max(pipeline.scheduler.stored_strategies, default=8)
    made = HEURISTICS[strategy](steps, remasking_temperature=remasking_temperature, guidance_scale=guidance_scale)
    return {"strategy": made}


def generators(seed, count):
    """A stream for each image, so that it does not depend on the others."""
    return [torch.Generator().manual_seed((seed + i) % (MAX_SEED + 1)) for i in range(count)]


def to_comfy(images):
    """`[B, 1 or 3, H, W]` as ComfyUI has it: on the CPU, with three channels, last."""
    images = images.float().cpu()
    return images.expand(-1, 3, -1, -1).movedim(1, -1).contiguous()


NODE_CLASS_MAPPINGS = {one.__name__: one for one in (AutoNATLoader, AutoNATGenerate, AutoNATInpaint)}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AutoNATLoader": "Load AutoNAT pipeline",
    "AutoNATGenerate": "AutoNAT: generate",
    "AutoNATInpaint": "AutoNAT: inpaint",
}
