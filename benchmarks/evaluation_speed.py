#!/usr/bin/env python
r"""What evaluation costs beside generation: images/s of an Evaluator over those of the bare pipeline.

    python benchmarks/evaluation_speed.py model_cards/autonat-fashion-mnist --judge model_cards/fashion-mnist-classifier \
        --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz

The bare pipeline is called with the same batches and one generator, and its images are dropped. Both take turns, so
that a busy machine slows both. Writes a JSON file after every round; a killed run goes on where it was when the command is
repeated.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
from timing import in_turn, made_with, median_and_spread, resumed, seconds
from tqdm.auto import tqdm

from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import Evaluator, load_extractor, load_reference
from diffusers_autonat.provenance import model_hash


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

    device = default_device()
    pipe = load_pipeline(args.pipeline)
    hashes = {part: model_hash(getattr(pipe, part)) for part in ("transformer", "vqvae")}
    pipe.to(device)
    extractor = load_extractor(args.judge).to(device)
    reference = load_reference(args.reference, extractor)
    evaluator = Evaluator(pipe, extractor, reference, args.metrics.split(","), progress=False)
    size, steps = extractor.batch_size, args.num_inference_steps
    labels = evaluator.conditions.requests(args.num_images, seed=0).class_labels

    def bare():
        generator = torch.Generator(device).manual_seed(0)
        for batch in labels.split(size):
            pipe(batch, num_inference_steps=steps, generator=generator, output_type="pt")

    def evaluation():
        evaluator(args.num_images, num_inference_steps=steps)

    measures = {
        "bare": lambda: args.num_images / seconds(bare),
        "evaluation": lambda: args.num_images / seconds(evaluation),
    }
    warnings.filterwarnings("ignore", message="The covariance of")  # nobody looks at the values
    names = sorted(evaluator(size, num_inference_steps=steps))  # and warm up
    result = {
        "num_images": args.num_images, "num_inference_steps": steps, "values": names, "batch_size": size,
        "pipeline": Path(args.pipeline).name, **hashes, "extractor": extractor.name, **made_with("torchmetrics"),
    }  # fmt: skip
    output = Path(args.output)
    rounds = resumed(parser, output, {**result, "rounds": []}, ("rounds",))["rounds"]
    for one in in_turn(measures, args.rounds, first=len(rounds)):
        rounds.append(one)
        tqdm.write(json.dumps(one))
        ratios = [one["evaluation"] / one["bare"] for one in rounds]
        median, spread = median_and_spread(ratios)
        write_json(output, {"median_ratio": median, "spread": spread, "ratios": ratios, **result, "rounds": rounds})
    ratio = json.loads(output.read_text())["median_ratio"]
    print(f"evaluation runs at {ratio:.2f} of the bare pipeline's images/s, median of {len(rounds)} rounds")


if __name__ == "__main__":
    main()
