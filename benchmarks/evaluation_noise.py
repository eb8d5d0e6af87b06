#!/usr/bin/env python
r"""How noisy a measured distance is: its mean and standard deviation over seeds, for several N.

    python benchmarks/evaluation_noise.py model_cards/autonat-fashion-mnist --judge model_cards/fashion-mnist-classifier \
        --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz --num-inference-steps 8

One run of the largest N for each seed gives the smaller ones on the way. Writes a JSON file and a Markdown table beside
it. A killed run goes on where it was when the command is repeated.
"""

import argparse
import statistics
from pathlib import Path

from timing import made_with, resumed

from diffusers_autonat.files import write_json, write_text
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import EvaluationCheckpoint, Evaluator, load_extractor, load_reference
from diffusers_autonat.provenance import model_hash


def table(values: dict[str, dict[str, dict[str, float]]], counts: list[int]) -> str:
    """Markdown: a row for each N, and mean, standard deviation and their ratio of every value."""
    names = list(next(iter(values.values()))[str(counts[0])])
    head = "| N | seeds |" + "".join(f" {name} | std | std / mean |" for name in names)
    rows = [head, "|---|---|" + "---|---|---|" * len(names)]
    for count in counts:
        row = f"| {count:,} | {len(values)} |"
        for name in names:
            numbers = [by_count[str(count)][name] for by_count in values.values()]
            mean, std = statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else float("nan")
            row += f" {mean:.4f} | {std:.4f} | {std / mean if mean else float('nan'):.2%} |"
        rows.append(row)
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--num-inference-steps", type=int, default=8)
    parser.add_argument("--metrics", default="fid,class")
    parser.add_argument("--num-images", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to this minus one")
    parser.add_argument("--output", default="benchmarks/results/evaluation_noise.json")
    args = parser.parse_args()

    device = default_device()
    pipe = load_pipeline(args.pipeline)
    hashes = {part: model_hash(getattr(pipe, part)) for part in ("transformer", "vqvae")}
    pipe.to(device)
    extractor = load_extractor(args.judge).to(device)
    reference = load_reference(args.reference, extractor)
    evaluator = Evaluator(pipe, extractor, reference, args.metrics.split(","))
    strategy = pipe.scheduler.get_strategy(args.num_inference_steps)
    result = {
        "pipeline": Path(args.pipeline).name, **hashes, "strategy": strategy.to_dict(), "labels": "balanced",
        "num_images": args.num_images, "reference": {"hash": reference.hash, "source": reference.source},
        "extractor": extractor.identity(), **made_with("torchmetrics"), "values": {},
    }  # fmt: skip
    output = Path(args.output)
    result = resumed(parser, output, result, ("values",))  # which may ask for more seeds
    output.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        if str(seed) in result["values"]:
            continue
        identity = {key: value for key, value in result.items() if key not in ("values", "command")}
        identity |= {"seed": seed, "metrics": sorted(evaluator.metrics)}
        checkpoint = EvaluationCheckpoint(output.with_suffix(".state"), identity)
        rungs = evaluator.rungs(
            args.num_images, seed, strategy, description=f"seed {seed} of {args.seeds}", checkpoint=checkpoint
        )
        result["values"][str(seed)] = {}
        for count, values in rungs:
            result["values"][str(seed)][str(count)] = values
            if any(values.keys() != others[str(count)].keys() for others in result["values"].values()):
                parser.error(f"{output} was made with other --metrics: name another --output or delete it.")
        write_json(output, result)
        write_text(output.with_suffix(".md"), table(result["values"], args.num_images))
        checkpoint.delete()
    print(output.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
