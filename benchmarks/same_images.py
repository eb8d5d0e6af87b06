#!/usr/bin/env python
"""Do the shipped pipelines draw what they drew before? Record tokens and images, change the code, and compare bit by bit.

    python benchmarks/same_images.py record outputs/same-images.safetensors
    python benchmarks/same_images.py compare outputs/same-images.safetensors

Both on one machine: floating point differs between processors. Covers T = 4 and 8; one generator and a list of them; guidance
off, as stored and doubled; given tokens in ragged numbers; one strategy per image; a callback that changes tokens; bfloat16.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATPipeline, GenerationStrategy


FOLDERS = ("model_cards/autonat-fashion-mnist", "model_cards/enat-fashion-mnist")
LABELS = [0, 3, 9, 7, 5, 10]  # the last is the null class


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pipe: AutoNATPipeline, **arguments) -> dict[str, torch.Tensor]:
    """Tokens and images of one call; the images are those of the tokens."""
    tokens = pipe(LABELS, output_type="latent", **arguments).images
    return {"tokens": tokens, "images": pipe.decode_latents(tokens).float()}


def ragged_tokens(pipe: AutoNATPipeline) -> torch.Tensor:
    """0, 7, 14, ... given tokens, different places in every image."""
    num_tokens, mask_id = pipe.transformer.config.sample_size**2, pipe.transformer.config.codebook_size
    order = torch.rand(len(LABELS), num_tokens, generator=seeded(5)).argsort(dim=-1)
    given = torch.randint(0, mask_id, (len(LABELS), num_tokens), generator=seeded(6))
    counts = torch.arange(len(LABELS))[:, None] * 7
    return torch.where(order < counts, given, mask_id)


def mask_first_row(pipe, step: int, timestep: int, tensors: dict) -> dict:
    """A callback that hides tokens again after the second step."""
    if step == 1:
        tensors["latents"] = tensors["latents"].clone()
        tensors["latents"][:, :7] = pipe.transformer.config.codebook_size
    return tensors


def cases(folder: str) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    pipe = AutoNATPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for steps in (4, 8):
        each = [seeded(i) for i in range(len(LABELS))]
        strategies = [
            GenerationStrategy.cosine(steps, remasking_temperature=i, guidance_scale=0.5 * i)
            for i in range(len(LABELS))
        ]
        yield f"T{steps}.one-generator", draw(pipe, num_inference_steps=steps, generator=seeded(0))
        yield f"T{steps}.generators", draw(pipe, num_inference_steps=steps, generator=each)
        for scale in (0.0, 2.0):
            yield (
                f"T{steps}.guidance-{scale:g}",
                draw(pipe, num_inference_steps=steps, generator=seeded(1), guidance_scale=scale),
            )
        yield (
            f"T{steps}.given",
            draw(pipe, num_inference_steps=steps, generator=seeded(2), latents=ragged_tokens(pipe)),
        )
        yield f"T{steps}.strategies", draw(pipe, strategy=strategies, generator=seeded(3))
        yield (
            f"T{steps}.callback",
            draw(pipe, num_inference_steps=steps, generator=seeded(4), callback_on_step_end=mask_first_row),
        )
    pipe.to(dtype=torch.bfloat16)
    for steps in (4, 8):
        yield f"T{steps}.bfloat16", draw(pipe, num_inference_steps=steps, generator=seeded(0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    args = parser.parse_args()

    drawn = {}
    with tqdm(total=32) as progress:
        for folder in FOLDERS:
            for name, tensors in cases(folder):
                drawn |= {f"{Path(folder).name}.{name}.{kind}": tensor for kind, tensor in tensors.items()}
                progress.update()
    if args.command == "record":
        args.file.parent.mkdir(parents=True, exist_ok=True)
        save_file(drawn, args.file)
        print(f"{len(drawn)} tensors of {len(drawn) // 2} calls in {args.file}")
        return
    before = load_file(args.file)
    if before.keys() != drawn.keys():
        raise SystemExit(f"the recorded calls differ from today's: {sorted(before.keys() ^ drawn.keys())}")
    changed = [name for name in drawn if not torch.equal(before[name], drawn[name])]
    for name in changed:
        print(f"{name}: {(before[name] != drawn[name]).float().mean():.2%} of the values differ")
    if changed:
        raise SystemExit(f"{len(changed)} of {len(drawn)} tensors differ")
    print(f"{len(drawn)} tensors of {len(drawn) // 2} calls are equal bit by bit")


if __name__ == "__main__":
    main()
