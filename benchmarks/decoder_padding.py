"""What it saves to skip the padding blocks of a converted tokenizer's decoder.

A tokenizer of the released size, converted from random weights of the released layout, decodes the same tokens as a
stock `VQModel` and as our pipelines run it; the two take turns. Seconds are processor time on a CPU, which other
processes on the machine do not change, and wall time on a GPU.

    python benchmarks/decoder_padding.py --output benchmarks/results/decoder_padding.json
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from diffusers import VQModel
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat.cost.paper import TOKENIZER
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device
from diffusers_autonat.models.tokenizer import decode_tokens, padding_blocks, skip_padding_blocks


def build() -> VQModel:
    """The released sizes with random weights; the last block of every decoder level adds zero, as conversion makes it."""
    torch.manual_seed(0)
    vqvae = VQModel(**TOKENIZER | {"layers_per_block": 2, "lookup_from_codebook": True}).eval()
    for level in vqvae.decoder.up_blocks:
        for parameter in level.resnets[-1].conv2.parameters():
            torch.nn.init.zeros_(parameter)
    return vqvae


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="decoder_padding.json")
    args = parser.parse_args()
    device = default_device()
    stock = build().to(device)
    skipping = copy.deepcopy(stock)
    skip_padding_blocks(skipping)
    tokens = torch.randint(1024, (args.batch_size, 256), device=device)
    candidates = {"stock": lambda: decode_tokens(stock, tokens), "skipping": lambda: decode_tokens(skipping, tokens)}
    with torch.no_grad():
        equal = torch.equal(candidates["stock"](), candidates["skipping"]())  # and warms up
        clock = time.process_time if device == "cpu" else time.perf_counter
        taken = interleaved(candidates, args.rounds, warm_up=0, clock=clock)
    ratios = [ours / theirs for ours, theirs in zip(taken["skipping"], taken["stock"])]
    median, spread = median_and_spread(ratios)
    result = {"median_ratio": median, "spread": spread, "ratios": ratios,
              "seconds": [dict(zip(taken, one)) for one in zip(*taken.values())], "images_equal": equal,
              "skipped_blocks": padding_blocks(skipping), "batch_size": args.batch_size, "device": device,
              **made_with()}  # fmt: skip
    write_json(args.output, result)
    seconds = {name: median_and_spread(values)[0] for name, values in taken.items()}
    print(f"decoding takes {seconds['skipping']:.3f} s instead of {seconds['stock']:.3f} s: {median:.2f} of it")


if __name__ == "__main__":
    main()
