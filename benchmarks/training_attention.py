#!/usr/bin/env python
"""A training step with plain products for attention against torch's fused kernel, in bfloat16 on a CPU.

    python benchmarks/training_attention.py --output benchmarks/results/training_attention.json

Forward and backward pass of the U-ViT of the Fashion-MNIST card and of AutoNAT-S's shapes, both ways in turn.
"""

import argparse

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.files import write_json


# Sizes of the model, and a batch that two cores do in seconds
MODELS = {
    "192 wide, 7 blocks, 49 tokens": ({"sample_size": 7, "codebook_size": 512, "hidden_size": 192, "num_layers": 7,
                                       "num_attention_heads": 6, "num_classes": 10}, 256),
    "AutoNAT-S, 256 tokens": ({"hidden_size": 512, "num_layers": 13, "num_attention_heads": 8}, 4),
}  # fmt: skip


def step(sizes: dict, batch_size: int, fused: bool):
    """One step of training, as something to call."""
    torch.manual_seed(0)
    model = UViTTransformer2DModel(**sizes)
    if fused:
        model.set_attention_backend(AttentionBackendName.NATIVE.value)
    config = model.config
    tokens = torch.randint(config.codebook_size, (batch_size, config.sample_size**2))
    labels = torch.randint(config.num_classes, (batch_size,))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens, class_labels=labels).sample
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        model.zero_grad()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="training_attention.json")
    args = parser.parse_args()
    rows = []
    for name, (sizes, batch_size) in MODELS.items():
        ways = {"plain": step(sizes, batch_size, fused=False), "fused": step(sizes, batch_size, fused=True)}
        taken = interleaved(ways, args.rounds, description=name)
        ratio, spread = median_and_spread([fused / plain for plain, fused in zip(taken["plain"], taken["fused"])])
        rows.append(
            {"model": name, "batch_size": batch_size, "fused_over_plain": ratio, "spread": spread, "seconds": taken}
        )
        print(f"{name}: plain products {ratio:.2f} times as fast (spread {spread:.0%})")
    result = {
        "rows": rows,
        "threads": torch.get_num_threads(),
        **made_with(),
    }
    write_json(args.output, result)


if __name__ == "__main__":
    main()
