#!/usr/bin/env python
r"""How certain a search's values are, for several N: what two strategies seem to differ by, from seed to seed.

    python benchmarks/search_noise.py model_cards/autonat-fashion-mnist --judge model_cards/fashion-mnist-classifier \
        --reference model_cards/fashion-mnist-classifier/fashion-mnist-test.npz --num-inference-steps 4 \
        --remasking-temperature 2 --guidance-scale 1

Three strategies: the heuristic, the stored one, and one a quarter of the way there, as a search takes it. What is gained over the
heuristic is the difference of two values of N images, with noise that both share (finite differences, `released`, `tpe`, `cmaes` and
`gp` compare such values), by the stored one also with other noise; labels are the same for all. For the quarter of the way a population
around the heuristic predicts it too, with as many images as the two values take: 2 N. That is one slope in a direction that is known: a
search has to find it. Deviations are over seeds, of what one seed says. A killed run goes on with the next seed.
"""

import argparse
import statistics
from pathlib import Path

import optuna
import torch
from timing import made_with, resumed

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.files import write_json, write_text
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import Evaluator, load_extractor, load_reference
from diffusers_autonat.provenance import pipeline_hash
from diffusers_autonat.search.effects import Effects
from diffusers_autonat.search.objective import EvaluatorScore
from diffusers_autonat.search.population import EFFECTS, POPULATION_KIND
from diffusers_autonat.search.spaces import generation_params
from diffusers_autonat.search.strategy_spaces import FixedStepsSpace
from diffusers_autonat.training.recipes import heuristic_of


WAY = 0.25


def between(start: GenerationStrategy, end: GenerationStrategy, way: float) -> GenerationStrategy:
    schedules = zip(start.to_dict().items(), end.to_dict().values())
    return GenerationStrategy(
        **{name: [(1 - way) * a + way * b for a, b in zip(first, last)] for (name, first), last in schedules}
    )


def predicted(
    evaluator: Evaluator, start: GenerationStrategy, end: GenerationStrategy, count: int, seed: int
) -> float:
    """What a population of `count` images around the start says that the end gains."""
    space = POPULATION_KIND.space(FixedStepsSpace(start))
    score = POPULATION_KIND.score(EvaluatorScore(evaluator, count, seed), space)
    study = optuna.create_study()
    params = {name: parameter.start for name, parameter in space.parameters.items()}
    study.enqueue_trial(params)
    trial = study.ask()
    score(space.suggest(trial), trial)
    slopes = Effects.from_json(trial.user_attrs[EFFECTS]).slopes
    of_start, of_end = (generation_params(one, space.parameters) for one in (start, end))
    move = [one.to(of_end[name]) - one.to(of_start[name]) for name, one in score.coordinates.items()]
    return -torch.dot(slopes, torch.tensor(move, dtype=slopes.dtype)).item()


def rows_of(values: dict[str, dict[str, dict[str, float]]], counts: list[int]) -> list[dict[str, float]]:
    """For each N what is gained, as the mean and deviation over seeds."""
    rows = []
    for count in counts:
        seen = [by_count[str(count)] for by_count in values.values()]
        others = [*seen[1:], seen[0]]  # of other noise
        gains = {
            "stored": [one["heuristic"] - one["stored"] for one in seen],
            "stored, other noise": [one["heuristic"] - other["stored"] for one, other in zip(seen, others)],
            "quarter": [one["heuristic"] - one["quarter"] for one in seen],
            "quarter, population": [one["population"] for one in seen],
        }
        row = {"N": count}
        for name, each in gains.items():
            row |= {name: statistics.mean(each), f"{name}, deviation": statistics.stdev(each)}
        rows.append(row)
    return rows


def table(rows: list[dict[str, float]]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return (
        "\n".join([*lines, *(f"| {' | '.join(f'{value:,.4g}' for value in row.values())} |" for row in rows)]) + "\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--num-inference-steps", type=int, default=4)
    parser.add_argument("--remasking-temperature", type=float, required=True, help="lambda of the heuristic")
    parser.add_argument("--guidance-scale", type=float, required=True, help="k of the heuristic")
    parser.add_argument("--num-images", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--seeds", type=int, default=16, help="seeds 0 to this minus one, two at least")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the pipeline")
    parser.add_argument("--output", default="benchmarks/results/search_noise.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    pipe = load_pipeline(args.pipeline, getattr(torch, args.dtype), default_device())
    extractor = load_extractor(args.judge).to(default_device())
    reference = load_reference(args.reference, extractor)
    evaluator = Evaluator(pipe, extractor, reference, ("fid",), progress=False)
    steps, settings = args.num_inference_steps, (args.remasking_temperature, args.guidance_scale)
    heuristic = heuristic_of(pipe)(steps, remasking_temperature=settings[0], guidance_scale=settings[1])
    stored = pipe.scheduler.get_strategy(steps)
    strategies = {"heuristic": heuristic, "quarter": between(heuristic, stored, WAY), "stored": stored}
    result = {
        "pipeline": Path(args.pipeline).name, "hash": pipeline_hash(pipe), "dtype": args.dtype, "num_images": args.num_images,
        "strategies": {name: one.to_dict() for name, one in strategies.items()}, "reference": reference.hash,
        "extractor": extractor.identity(), **made_with("optuna"), "values": {}, "rows": [],
    }  # fmt: skip
    output = Path(args.output)
    result = resumed(parser, output, result, ("values", "rows"))
    for seed in range(args.seeds):
        if str(seed) in result["values"]:
            continue
        print(f"seed {seed} of {args.seeds}", flush=True)
        values = {str(count): {} for count in args.num_images}
        for name, strategy in strategies.items():
            for count, measured in evaluator.rungs(args.num_images, seed, strategy):
                values[str(count)][name] = measured["frechet_distance"]
        for count in args.num_images:
            values[str(count)]["population"] = predicted(evaluator, heuristic, strategies["quarter"], 2 * count, seed)
        result["values"][str(seed)] = values
        if len(result["values"]) > 1:
            result["rows"] = rows_of(result["values"], args.num_images)
            write_text(output.with_suffix(".md"), table(result["rows"]))
        write_json(output, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
