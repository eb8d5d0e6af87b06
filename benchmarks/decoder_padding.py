"""What it saves to skip the padding blocks of a converted tokenizer's decoder.

A tokenizer of the released size, converted from random weights of the released layout, decodes the same tokens as a
stock `VQModel` and as our pipelines run it; the two take turns. Seconds are processor time on a CPU, which other
processes on the machine do not change, and wall time on a GPU.

    python benchmarks/decoder_padding.py --output benchmarks/results/decoder_padding.json
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import VQModel
from tqdm import tqdm

from diffusers_autonat.cost.paper import TOKENIZER
from diffusers_autonat.models.tokenizer import padding_blocks, skip_padding_blocks
from diffusers_autonat.provenance import hardware, versions


def build() -> VQModel:
    """The released sizes with random weights; the last block of every decoder level adds zero, as conversion makes it."""
    torch.manual_seed(0)
    vqvae = VQModel(**TOKENIZER | {"layers_per_block": 2, "lookup_from_codebook": True}).eval()
    for level in vqvae.decoder.up_blocks:
        for parameter in level.resnets[-1].conv2.parameters():
            torch.nn.init.zeros_(parameter)
    return vqvae


def decode(vqvae: VQModel, tokens: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Images of `tokens` `[B, 256]`, and the seconds it took."""
    clock = time.process_time if tokens.device.type == "cpu" else time.perf_counter
    start = clock()
    with torch.no_grad():
        images = vqvae.decode(tokens, force_not_quantize=True, shape=(len(tokens), 16, 16, 256)).sample
    if tokens.device.type == "cuda":
        torch.cuda.synchronize()
    return images, clock() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="decoder_padding.json")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stock = build().to(device)
    skipping = copy.deepcopy(stock)
    skip_padding_blocks(skipping)
    tokens = torch.randint(1024, (args.batch_size, 256), device=device)
    equal = torch.equal(decode(stock, tokens)[0], decode(skipping, tokens)[0])  # and warms up
    rounds = [
        {"stock": decode(stock, tokens)[1], "skipping": decode(skipping, tokens)[1]}
        for _ in tqdm(range(args.rounds), unit="round")
    ]
    ratios = [one["skipping"] / one["stock"] for one in rounds]
    result = {"median_ratio": statistics.median(ratios), "ratios": ratios, "seconds": rounds, "images_equal": equal,
              "skipped_blocks": padding_blocks(skipping), "batch_size": args.batch_size, "device": device,
              "hardware": hardware(), "versions": versions("torch", "diffusers")}  # fmt: skip
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    seconds = {name: statistics.median(one[name] for one in rounds) for name in ("stock", "skipping")}
    print(
        f"decoding takes {seconds['skipping']:.3f} s instead of {seconds['stock']:.3f} s: {result['median_ratio']:.2f} of it"
    )


if __name__ == "__main__":
    main()
