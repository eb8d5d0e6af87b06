#!/usr/bin/env python
"""Parts of a step, and of decoding, each by itself: as they were, and with less work. What pays is in the package.

    python benchmarks/step_parts.py --model AutoNAT-L --batch-sizes 1 8 --output benchmarks/results/step_parts.json

The two ways of a part take turns. `before` over `after` says how many times as fast a part is, and `saves` what share of the
time of one unguided pass of the transformer that is. The parts:

- decoder: convolutions with channels last in memory
- guidance: `cond + s (cond - uncond)` without a copy of either in float32
- ranks: which scores are lowest, by one sort instead of two
- head: logits at masked places alone, of half of the tokens, at zeros elsewhere
- draw: a token drawn and scored at masked places alone; the noise is drawn for all, so that images stay what they are
"""

import argparse
import copy

import torch
import torch.nn.functional as F
from decoder_padding import build as build_tokenizer
from timing import interleaved, made_with, median_and_spread

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device
from diffusers_autonat.models.tokenizer import decode_tokens, skip_padding_blocks
from diffusers_autonat.models.transformer_enat import gather_tokens
from diffusers_autonat.schedulers.masked_sampling import draw_tokens, gumbel_noise, log_confidence


MODELS = {
    "tiny": {"sample_size": 8, "hidden_size": 32, "num_layers": 3, "num_attention_heads": 4},
    "AutoNAT-S": {"hidden_size": 512, "num_layers": 13},
    "AutoNAT-L": {},
}


def decoder(tokens, dtype):
    plain = build_tokenizer().to(tokens.device, dtype)
    skip_padding_blocks(plain)
    for module in plain.modules():
        module.to(memory_format=torch.contiguous_format)
    last = copy.deepcopy(plain)
    last.decoder.to(memory_format=torch.channels_last)
    return lambda: decode_tokens(plain, tokens), lambda: decode_tokens(last, tokens)


def guidance(logits):
    cond, uncond = torch.cat([logits, logits.flip(0)]).chunk(2)
    scale = torch.full((1, 1, 1), 1.5, device=logits.device)

    def before():
        first, second = cond.float(), uncond.float()
        return first + scale * (first - second)

    def after():
        return torch.sub(cond, uncond.float()).mul_(scale).add_(cond)

    return before, after


def ranks(logits):
    score = logits.float().amax(-1)  # [B, N]
    count = torch.full((1, 1), score.shape[1] // 2, device=score.device)

    def before():
        return score.argsort(dim=-1).argsort(dim=-1) < count

    def after():
        order = score.argsort(dim=-1)
        chosen = torch.arange(order.shape[1], device=order.device) < count
        return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, chosen.expand_as(order))

    return before, after


def masked_places(logits):
    """Half of the places of each sample, in order: `[B, N / 2]`."""
    noise = torch.rand(logits.shape[:2], generator=torch.Generator().manual_seed(1))
    return noise.argsort(dim=-1)[:, : logits.shape[1] // 2].sort().values.to(logits.device)


def head(transformer, logits):
    config, places = transformer.config, masked_places(logits)
    states = torch.randn(*logits.shape[:2], config.hidden_size, device=logits.device, dtype=logits.dtype)
    codebook = transformer.embed.word_embeddings.weight[:-1].detach()

    def before():
        made = transformer.head(states, codebook)
        return gather_tokens(made, places)

    def after():
        made = transformer.head(gather_tokens(states, places), codebook)
        spread = torch.zeros_like(logits).scatter_(1, places[..., None].expand_as(made), made)
        return gather_tokens(spread, places)

    return before, after


def draw(logits):
    places, temperature = masked_places(logits), torch.ones(1, 1, 1, device=logits.device)
    logits = logits.float()

    def chosen(some, noise):
        tokens = draw_tokens(some, temperature, noise)
        return tokens, log_confidence(some, tokens)

    def noise():
        generator = torch.Generator(logits.device).manual_seed(0)
        return gumbel_noise(logits.shape, generator, logits.device)

    def before():
        tokens, score = chosen(logits, noise())
        return torch.stack([tokens.gather(1, places).float(), score.gather(1, places)])

    def after():
        return torch.stack(
            [part.float() for part in chosen(gather_tokens(logits, places), gather_tokens(noise(), places))]
        )

    return before, after


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="AutoNAT-L")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", nargs="+", default=["decoder", "guidance", "ranks", "head", "draw"])
    parser.add_argument("--output", default="step_parts.json")
    args = parser.parse_args()
    device, rows = default_device(), []
    for dtype_name in args.dtypes:
        dtype = getattr(torch, dtype_name)
        torch.manual_seed(0)
        transformer = UViTTransformer2DModel(**MODELS[args.model]).eval().to(device, dtype)
        num_tokens = transformer.config.sample_size**2
        for batch in args.batch_sizes:
            tokens = torch.randint(1024, (batch, num_tokens), device=device)
            labels = torch.zeros(batch, dtype=torch.long, device=device)
            logits = transformer(tokens, class_labels=labels).sample
            makers = {
                "decoder": lambda: decoder(tokens, dtype), "guidance": lambda: guidance(logits),
                "ranks": lambda: ranks(logits), "head": lambda: head(transformer, logits), "draw": lambda: draw(logits),
            }  # fmt: skip
            parts = {name: makers[name]() for name in args.parts}
            ways = {"pass": lambda: transformer(tokens, class_labels=labels)}
            ways |= {f"{name} {way}": run for name, two in parts.items() for way, run in zip(("before", "after"), two)}
            taken = interleaved(ways, args.rounds, description=f"{dtype_name}, batch {batch}")
            whole = median_and_spread(taken["pass"])[0]
            for name, (before, after) in parts.items():
                first, second = taken[f"{name} before"], taken[f"{name} after"]
                ratio, spread = median_and_spread([a / b for a, b in zip(first, second)])
                saves = (median_and_spread(first)[0] - median_and_spread(second)[0]) / whole
                difference = F.l1_loss(before().float(), after().float()).item()
                rows.append({
                    "part": name, "dtype": dtype_name, "batch_size": batch, "before_over_after": ratio, "spread": spread,
                    "least_over_least": min(first) / min(second), "saves_of_a_pass": saves, "mean_difference": difference,
                    "seconds": {"pass": taken["pass"], "before": first, "after": second},
                })  # fmt: skip
                print(f"{dtype_name}, batch {batch}: {name:9} {ratio:5.2f} times as fast (least: {min(first) / min(second):.2f}),",
                      f"saves {saves:7.2%} of a pass, mean difference {difference:.1e}")  # fmt: skip
    write_json(args.output, {"rows": rows, "model": args.model, "device": device, **made_with()})  # fmt: skip


if __name__ == "__main__":
    main()
