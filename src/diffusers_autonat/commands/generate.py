"""`diffusers-autonat generate`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ..command_line import positive
from .arguments import add_generation_arguments, add_text_encoder_argument, check_writable, chosen_strategy


def run(args: argparse.Namespace) -> None:
    """One row of images for each class or prompt, as one PNG."""
    import torch
    from diffusers.utils import make_image_grid

    from ..loading import default_device, load_pipeline
    from ..pipelines.prompts import takes_prompts

    check_writable(args.output)
    pipe = load_pipeline(args.pipeline, device=default_device(), text_encoder=args.text_encoder)
    strategy = chosen_strategy(args, pipe)
    rows = args.prompts
    if takes_prompts(pipe):
        if not args.prompts or args.class_labels:
            raise ValueError(f"{args.pipeline} draws from text: give --prompts, and no --class-labels.")
    elif args.prompts:
        raise ValueError(f"{args.pipeline} draws from classes: give --class-labels, and no --prompts.")
    else:
        num_classes = pipe.transformer.config.num_classes
        rows = [int(name) if name.isdigit() else name for name in args.class_labels] or list(
            range(min(num_classes, 10))
        )
    images = pipe(
        rows,
        num_inference_steps=args.num_inference_steps,
        strategy=strategy,
        guidance_scale=args.guidance_scale,
        num_images_per_prompt=args.num_images,
        generator=torch.Generator().manual_seed(args.seed),
    ).images
    # Small images are enlarged by a whole factor, so that one can see them and every pixel stays as it is.
    scale = math.ceil(64 / images[0].height)
    images = [image.resize((image.width * scale, image.height * scale), 0) for image in images]
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    make_image_grid(images, rows=len(rows), cols=args.num_images).save(output)
    names = args.prompts or [str(pipe.id2label.get(class_id, class_id)) for class_id in pipe.get_label_ids(rows)]
    print(f"{len(images)} images in {pipe.num_timesteps} steps, rows: {', '.join(names)}\nsaved to {output}")


def register(commands) -> None:
    command = commands.add_parser("generate", help="draw images of classes or prompts", description=run.__doc__)
    command.add_argument("pipeline", help="folder or Hub id")
    command.add_argument("--class-labels", nargs="*", default=[], help="ids or names; default: the first ten classes")
    command.add_argument("--prompts", nargs="+", default=[], metavar="TEXT", help="of a pipeline that draws from text")
    command.add_argument("--num-images", type=positive, default=4, help="for each class or prompt")
    add_text_encoder_argument(command)
    add_generation_arguments(command)
    command.add_argument("--output", required=True, metavar="FILE", help="the picture; one of that name is replaced")
    command.set_defaults(run=run)
