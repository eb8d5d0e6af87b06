#!/usr/bin/env python
"""Plain products for attention against torch's fused kernel, in bfloat16 on a CPU: a step of training, and a pass that draws.

    python benchmarks/attention.py --output benchmarks/results/attention.json

With the U-ViT of the Fashion-MNIST card and with AutoNAT-S's and -L's shapes, both ways in turn.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.files import write_json
from diffusers_autonat.models import attention


# Sizes of the model, and batches of a training step and of a pass that two cores do in seconds
MODELS = {
    "192 wide, 7 blocks, 49 tokens": ({"sample_size": 7, "codebook_size": 512, "hidden_size": 192, "num_layers": 7,
                                       "num_attention_heads": 6, "num_classes": 10}, {"train": 256, "generate": 64}),
    "AutoNAT-S, 256 tokens": ({"hidden_size": 512, "num_layers": 13, "num_attention_heads": 8}, {"train": 4, "generate": 4}),
    "AutoNAT-L, 256 tokens": ({"hidden_size": 768, "num_layers": 25, "num_attention_heads": 12}, {"generate": 2}),
}  # fmt: skip


def inputs_of(model: UViTTransformer2DModel, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    config = model.config
    tokens = torch.randint(config.codebook_size, (batch_size, config.sample_size**2))
    return tokens, torch.randint(config.num_classes, (batch_size,))


def train(model: UViTTransformer2DModel, batch_size: int) -> Callable[[], None]:
    """One step of training, as something to call."""
    tokens, labels = inputs_of(model, batch_size)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens, class_labels=labels).sample
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        model.zero_grad()

    return run


def generate(model: UViTTransformer2DModel, batch_size: int) -> Callable[[], None]:
    """One pass of a drawing, as something to call."""
    model.to(torch.bfloat16).eval()
    tokens, labels = inputs_of(model, batch_size)

    @torch.inference_mode()
    def run() -> None:
        model(tokens, class_labels=labels)

    return run


WORK = {"train": train, "generate": generate}


def way(work: str, sizes: dict, batch_size: int, fused: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = UViTTransformer2DModel(**sizes)
    if fused:
        model.set_attention_backend(AttentionBackendName.NATIVE.value)
    return WORK[work](model, batch_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="attention.json")
    args = parser.parse_args()
    attention._has_tiles = lambda: False  # also where the fused kernel is what models take by themselves
    rows = []
    for name in args.models:
        sizes, batches = MODELS[name]
        for work, batch_size in batches.items():
            ways = {kind: way(work, sizes, batch_size, fused=kind == "fused") for kind in ("plain", "fused")}
            taken = interleaved(ways, args.rounds, description=f"{name}, {work}")
            ratio, spread = median_and_spread([fused / plain for plain, fused in zip(taken["plain"], taken["fused"])])
            rows.append({"model": name, "work": work, "batch_size": batch_size, "fused_over_plain": ratio, "spread": spread, "seconds": taken})  # fmt: skip
            print(f"{name}, {work}: plain products {ratio:.2f} times as fast (spread {spread:.0%})")
            write_json(args.output, {"rows": rows, "threads": torch.get_num_threads(), **made_with()})


if __name__ == "__main__":
    main()
