#!/usr/bin/env python
"""ENAT-L with random weights at T = 8 on 256 tokens: cost and time against itself without reuse, itself without
disentangling, and AutoNAT-L.

    python benchmarks/enat.py --batch-sizes 1 8 --dtypes float32 --output benchmarks/results/enat.json

Cost is counted on the meta device, operation by operation, for one image before the decoder. Times are of whole runs of
the pipeline without the decoder; the variants take turns, so that a busy machine slows all of them.
"""

import argparse
from pathlib import Path

import torch
from diffusers import VQModel
from diffusers.models.attention_dispatch import attention_backend
from timing import interleaved, made_with, median_and_spread
from torch.utils.flop_counter import FlopCounterMode

from diffusers_autonat import (
    AutoNATPipeline,
    ENATTransformer2DModel,
    GenerationStrategy,
    NATScheduler,
    UViTTransformer2DModel,
)
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device
from diffusers_autonat.models.transformer_enat import ENATTransformer2DModelOutput
from diffusers_autonat.pipelines.guided import GuidedTransformer


class WithoutReuse(ENATTransformer2DModel):
    """Encodes every visible token again at every step."""

    def forward(self, input_ids, class_labels=None, cache=None, num_masked=None, return_dict=True):
        sample = super().forward(input_ids, class_labels, num_masked=num_masked).sample
        return ENATTransformer2DModelOutput(sample=sample)


class WithoutDisentangling(ENATTransformer2DModel):
    """Every block works on all tokens, visible and masked alike: the plain transformer of these blocks."""

    def forward(self, input_ids, class_labels=None, cache=None, num_masked=None, return_dict=True):
        hidden_states, class_embedding = self.embed(input_ids, class_labels)
        for block in (*self.encoder_blocks, *self.decoder_blocks):
            hidden_states, _ = block(hidden_states, class_embedding, None)
        places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        codebook = self.embed.word_embeddings(torch.arange(self.config.codebook_size, device=input_ids.device))
        return ENATTransformer2DModelOutput(sample=self.head(hidden_states, places, codebook))


ENAT, COSINE = GenerationStrategy.enat, GenerationStrategy.cosine
VARIANTS = {
    "ENAT-L": (ENATTransformer2DModel, ENAT),
    "ENAT-L without reuse": (WithoutReuse, ENAT),
    "ENAT-L without disentangling": (WithoutDisentangling, ENAT),
    "AutoNAT-L": (UViTTransformer2DModel, COSINE),
}


def build_pipeline(model_class, device: str, dtype: torch.dtype) -> AutoNATPipeline:
    tokenizer = VQModel(num_vq_embeddings=1024, lookup_from_codebook=True)  # never run here
    with torch.device(device):
        transformer = model_class().eval()  # the classes' defaults are ENAT-L and AutoNAT-L
    pipeline = AutoNATPipeline(tokenizer, transformer.to(dtype), NATScheduler(1024)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def step_costs(model_class, strategy: GenerationStrategy) -> list[float]:
    """Multiply-accumulates of every step, both passes where it is guided, attention included."""
    with torch.device("meta"):
        transformer = model_class().eval()
        tokens = torch.zeros(1, transformer.config.sample_size**2, dtype=torch.long)
        labels = {"class_labels": tokens[:, 0]}
    predict = GuidedTransformer(transformer, labels, labels)
    plan = NATScheduler().plan(strategy=strategy, num_to_fill=tokens.shape[1])
    costs = []
    for parameters, num_masked in zip(plan.parameters, plan.num_masked or ()):
        with attention_backend("_native_math"), FlopCounterMode(display=False) as counter:
            predict(tokens, parameters, num_masked)
        costs.append(counter.get_total_flops() / 2)
    return costs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--num-inference-steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="enat.json")
    args = parser.parse_args()
    device = default_device()
    strategies = {name: heuristic(args.num_inference_steps) for name, (_, heuristic) in VARIANTS.items()}
    costs = {name: step_costs(model_class, strategies[name]) for name, (model_class, _) in VARIANTS.items()}
    result = {"num_inference_steps": args.num_inference_steps, "num_tokens": 256, "device": device,
              **made_with(), "rounds": args.rounds,
              "macs": {name: {"steps": steps, "total": sum(steps)} for name, steps in costs.items()}, "times": []}  # fmt: skip
    for name, steps in costs.items():
        print(
            f"{name:30} {sum(steps) / 1e12:6.3f} T multiply-accumulates, steps:", *(f"{x / 1e12:.3f}" for x in steps)
        )

    for dtype_name in args.dtypes:
        dtype = getattr(torch, dtype_name)
        enat = build_pipeline(ENATTransformer2DModel, device, dtype)
        autonat = build_pipeline(UViTTransformer2DModel, device, dtype)

        def draw(name: str, batch_size: int) -> None:
            pipeline = autonat if name == "AutoNAT-L" else enat
            pipeline.transformer.__class__ = VARIANTS[name][0]  # one set of weights, three ways to run it
            generator = torch.Generator(device).manual_seed(0)
            # Given as tokens, all-masked grids have each a first step of their own, as the cost counts it.
            grids = torch.full((batch_size, 256), 1024)
            pipeline(
                [0] * batch_size, strategy=strategies[name], latents=grids, output_type="latent", generator=generator
            )

        for batch_size in args.batch_sizes:
            runs = {name: lambda name=name: draw(name, batch_size) for name in VARIANTS}
            description = f"{dtype_name}, batch {batch_size}"
            times = interleaved(runs, args.rounds, int(device == "cuda"), description=description)
            medians = {name: median_and_spread(times[name])[0] for name in VARIANTS}
            per_mac = {name: medians[name] / (batch_size * sum(costs[name])) for name in VARIANTS}
            for name in VARIANTS:
                row = {"dtype": dtype_name, "batch_size": batch_size, "model": name, "seconds": times[name],
                       "median_seconds": medians[name], "seconds_per_tera_mac": per_mac[name] * 1e12,
                       "per_mac_against_autonat": per_mac[name] / per_mac["AutoNAT-L"]}  # fmt: skip
                result["times"].append(row)
                print(f"{dtype_name} batch {batch_size} {name:30} {row['median_seconds']:8.3f} s,",
                      f"{row['per_mac_against_autonat']:.2f} of AutoNAT-L's time for a multiply-accumulate")  # fmt: skip
            write_json(Path(args.output), result)


if __name__ == "__main__":
    main()
