#!/usr/bin/env python
r"""What of a policy's gain is due to what: the strategy it started from and the policy itself, and between them its mean over all
images as one strategy, its mean over the images of each class, and what it has set for another image of the class.

    python benchmarks/policy_parts.py model_cards/autonat-fashion-mnist --policy model_cards/autonat-fashion-mnist-policy-T4 \
        --judge model_cards/fashion-mnist-classifier --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz \
        --second-judge model_cards/fashion-mnist-second-classifier \
        --second-reference model_cards/fashion-mnist-second-classifier/fashion-mnist-test.npz --dtype bfloat16 --output parts.json

All on the same noise and classes, other than those of the images that the means are of. A killed run goes on with the next kind.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from timing import made_with, resumed

from diffusers_autonat import AdaptivePolicyModel, GenerationStrategy
from diffusers_autonat.cards import table
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import SECOND, Evaluator, MetricSuite, load_extractor, load_reference
from diffusers_autonat.metrics.policy_trace import PolicyTrace, trace_policy


ChooseStrategies = Callable[[Sequence[int], Sequence[int]], "list[GenerationStrategy] | GenerationStrategy | None"]
VALUES = ("frechet_distance", f"{SECOND}frechet_distance")


def strategy_of(trace: PolicyTrace, rows: torch.Tensor) -> GenerationStrategy:
    """The mean of what was set for these images `[n]`, as a strategy."""
    schedules = {name: values[rows].double().mean(dim=0).tolist() for name, values in trace.schedules.items()}
    schedules["mask_ratios"][-1] = 0.0  # of the last step nothing is masked, whatever a policy sets
    return GenerationStrategy(**schedules)


def kinds_of(trace: PolicyTrace, start: GenerationStrategy) -> dict[str, ChooseStrategies]:
    """By name, what sets the strategies of images with these indices and classes; None: the policy."""
    of_class = {
        label: (trace.class_labels == label).nonzero().flatten() for label in trace.class_labels.unique().tolist()
    }
    mean = strategy_of(trace, torch.arange(len(trace.class_labels)))
    means = {label: strategy_of(trace, rows) for label, rows in of_class.items()}

    def another(index: int, label: int) -> GenerationStrategy:
        rows = of_class[label]
        return strategy_of(trace, rows[[index // len(of_class) % len(rows)]])

    return {
        "where it started": lambda indices, labels: start,
        "its mean over all images": lambda indices, labels: mean,
        "its mean over images of the class": lambda indices, labels: [means[label] for label in labels],
        "what it set for another image of the class": lambda indices, labels: [*map(another, indices, labels)],
        "the policy": lambda indices, labels: None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--policy", required=True, help="folder of the policy")
    for judge in ("", "second-"):
        parser.add_argument(f"--{judge}judge", required=True, help="classifier")
        parser.add_argument(f"--{judge}reference", required=True, help=".npz of its features")
    parser.add_argument("--num-images", type=int, default=10_000)
    parser.add_argument("--traced-images", type=int, default=2_000, help="that means are of")
    parser.add_argument("--seed", type=int, default=3_000_003, help="of the noise; that of the means is one more")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the pipeline")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()

    pipe = load_pipeline(args.pipeline, getattr(torch, args.dtype), default_device())
    policy = AdaptivePolicyModel.from_pretrained(args.policy).to(default_device())
    pipe.register_modules(policy=policy)
    judges = []
    for judge, reference in ((args.judge, args.reference), (args.second_judge, args.second_reference)):
        extractor = load_extractor(judge).to(default_device())
        judges.append((extractor, load_reference(reference, extractor)))
    num_classes = pipe.transformer.config.num_classes
    first, second = (MetricSuite.of_distance(*judge, num_classes) for judge in judges)
    evaluator = Evaluator(pipe, *judges[0], first.metrics, second=second)

    result = {
        "pipeline": Path(args.pipeline).name, "policy": Path(args.policy).name, "num_images": args.num_images,
        "traced_images": args.traced_images, "seed": args.seed, "dtype": args.dtype, **made_with(), "values": {},
    }  # fmt: skip
    output = Path(args.output)
    result = resumed(parser, output, result, ("values",))
    _, requests = evaluator.generation(args.num_images, args.seed)
    trace = trace_policy(pipe, args.traced_images, args.seed + 1, progress=True)
    for name, choose in kinds_of(trace, GenerationStrategy.from_dict(policy.config.strategy)).items():
        if name in result["values"]:
            continue

        def make_images(indices, requests):
            strategies = choose(indices.tolist(), requests.class_labels.tolist())
            return evaluator.generation(1, args.seed, strategies)[0](indices, requests)

        [(_, values)] = evaluator.measure(make_images, requests, [args.num_images], name)
        result["values"][name] = values
        write_json(output, result)
    rows = [
        [name, *(f"{of[key]:.3f} +- {of[f'{key}_error']:.3f}" for key in VALUES), f"{of['class_consistency']:.1%}"]
        for name, of in result["values"].items()
    ]
    print(table(["", "distance", "by the second judge", "recognised"], rows))


if __name__ == "__main__":
    main()
