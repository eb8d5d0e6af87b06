#!/usr/bin/env python
r"""What the trials of a search share: passes of finite differences' first update against those of whole images, and the values of both.

    python benchmarks/search_sharing.py model_cards/autonat-fashion-mnist --judge model_cards/fashion-mnist-classifier \
        --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz --remasking-temperature 2 --guidance-scale 1 \
        --dtype bfloat16

The start is the heuristic; around it every parameter is changed by a step up and a step down. A whole image takes T passes, and one
more for each guided step; without those of the first step where that is kept for each class, as an evaluation does. A killed run
goes on with the next change.
"""

import argparse
from pathlib import Path

import torch
from timing import made_with, resumed

from diffusers_autonat.command_line import print_table
from diffusers_autonat.cost.passes import PassCounter
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import Evaluator, load_extractor, load_reference
from diffusers_autonat.provenance import pipeline_hash
from diffusers_autonat.search.finite_difference import FiniteDifferenceSampler
from diffusers_autonat.search.replay import ReplayingEvaluator
from diffusers_autonat.search.samplers import default_knots, make_space
from diffusers_autonat.strategies import Strategy
from diffusers_autonat.training.recipes import heuristic_of


SAMPLER = "finite-difference"


def probes_of(start: Strategy) -> tuple[Strategy, dict[str, Strategy]]:
    """The start as the search has it, and around it what an update tries, by name."""
    space = make_space(SAMPLER, start, num_knots=default_knots(SAMPLER, start.num_inference_steps))
    point = {name: parameter.start for name, parameter in space.parameters.items()}
    probes = FiniteDifferenceSampler(space.parameters, central=True).probes(point)
    return space.strategy(point), {
        f"{name} {'+' if value > point[name] else '-'}": space.strategy({**point, name: value})
        for name, value in probes
    }


def row_of(steps: int, probes: dict[str, dict[str, float]]) -> list[str]:
    shared, whole, later = (
        sum(one[key] for one in probes.values()) for key in ("passes", "whole_passes", "later_passes")
    )
    error = max(abs(one["value"] - one["whole_value"]) for one in probes.values())
    shares = f"{shared / whole:.2f}", f"{shared / later:.2f}"
    return [str(steps), str(len(probes)), f"{whole:,}", f"{shared:,}", *shares, f"{error:.2g}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--num-inference-steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--remasking-temperature", type=float, required=True, help="lambda of the heuristic")
    parser.add_argument("--guidance-scale", type=float, required=True, help="k of the heuristic")
    parser.add_argument("--num-images", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the pipeline")
    parser.add_argument("--output", default="benchmarks/results/search_sharing.json")
    args = parser.parse_args()

    pipe = load_pipeline(args.pipeline, getattr(torch, args.dtype), default_device())
    extractor = load_extractor(args.judge).to(default_device())
    reference = load_reference(args.reference, extractor)
    evaluator = Evaluator(pipe, extractor, reference, ("fid",), progress=False)
    result = {
        "pipeline": Path(args.pipeline).name, "hash": pipeline_hash(pipe), "dtype": args.dtype, "num_images": args.num_images,
        "seed": args.seed, "heuristic": [args.remasking_temperature, args.guidance_scale], "reference": reference.hash,
        "extractor": extractor.identity(), **made_with(), "values": {},
    }  # fmt: skip
    output = Path(args.output)
    result = resumed(parser, output, result, ("values",))
    counter = PassCounter(pipe.transformer)
    made = len(evaluator.generation(args.num_images, args.seed)[1])  # in whole calls

    def measured(measure, strategy: Strategy) -> tuple[int, float]:
        before = counter.count
        [(_, values)] = measure.rungs([args.num_images], args.seed, strategy)
        return counter.count - before, values["frechet_distance"]

    for steps in args.num_inference_steps:
        heuristic = heuristic_of(pipe)(
            steps, remasking_temperature=args.remasking_temperature, guidance_scale=args.guidance_scale
        )
        (start, probes), replaying = probes_of(heuristic), ReplayingEvaluator(evaluator)
        values = result["values"].setdefault(str(steps), {})
        if len(values) < len(probes):
            measured(replaying, start)
        for name, probe in probes.items():
            if name in values:
                continue
            passes, value = measured(replaying, probe)
            _, whole_value = measured(evaluator, probe)
            of_steps = [made * (1 + (scale > 0)) for scale in probe.guidance_scales]
            values[name] = {
                "passes": passes, "whole_passes": sum(of_steps), "later_passes": sum(of_steps[1:]), "value": value,
                "whole_value": whole_value,
            }  # fmt: skip
            print(f"T = {steps}, {name}: {passes / sum(of_steps):.2f}", flush=True)
            write_json(output, result)
    head = [
        "T",
        "changes",
        "passes of whole images",
        "with sharing",
        "share",
        "of later steps",
        "largest difference in value",
    ]
    print_table(head, [row_of(steps, result["values"][str(steps)]) for steps in args.num_inference_steps])


if __name__ == "__main__":
    main()
