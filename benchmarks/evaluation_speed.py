#!/usr/bin/env python
"""What evaluation costs beside generation: images/s of an Evaluator over those of the bare pipeline.

    python benchmarks/evaluation_speed.py model_cards/autonat-fashion-mnist --judge model_cards/fashion-mnist-classifier \\
        --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz

The bare pipeline is called with the same batches and one generator, and its images are dropped. Both take turns, so
that a busy machine slows both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.metrics import Evaluator, load_extractor, load_reference
from diffusers_autonat.training.model_card import hardware, versions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--num-inference-steps", type=int, default=8)
    parser.add_argument("--metrics", default="fid,class")
    parser.add_argument("--num-images", type=int, default=256, help="a round, of each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="benchmarks/results/evaluation_speed.json")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = AutoNATPipeline.from_pretrained(args.pipeline).to(device)
    extractor = load_extractor(args.judge).to(device)
    reference = load_reference(args.reference, extractor)
    evaluator = Evaluator(pipe, extractor, reference, args.metrics.split(","), progress=False)
    size, steps = extractor.batch_size, args.num_inference_steps
    labels = evaluator.labels(args.num_images)

    def bare():
        generator = torch.Generator(device).manual_seed(0)
        for batch in labels.split(size):
            pipe(batch, num_inference_steps=steps, generator=generator, output_type="pt")

    def evaluation():
        evaluator(args.num_images, num_inference_steps=steps)

    def images_per_second(what) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        what()
        if device == "cuda":
            torch.cuda.synchronize()
        return args.num_images / (time.perf_counter() - start)

    pipe(labels[:size], num_inference_steps=steps, output_type="pt")  # warm up
    # In turn first and second, so that a load that comes and goes favours neither.
    rounds = []
    for i in tqdm(range(args.rounds)):
        order = (("bare", bare), ("evaluation", evaluation))[:: 1 if i % 2 == 0 else -1]
        rounds.append({name: images_per_second(what) for name, what in order})
        tqdm.write(json.dumps(rounds[-1]))
    ratios = [one["evaluation"] / one["bare"] for one in rounds]
    result = {
        "median_ratio": statistics.median(ratios), "ratios": ratios, "rounds": rounds, "num_images": args.num_images,
        "num_inference_steps": steps, "metrics": args.metrics, "batch_size": size, "extractor": extractor.name,
        "hardware": hardware(), "versions": versions("torch", "diffusers", "torchmetrics"),
    }  # fmt: skip
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    print(f"evaluation runs at {result['median_ratio']:.2f} of the bare pipeline's images/s")


if __name__ == "__main__":
    main()
