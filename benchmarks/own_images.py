#!/usr/bin/env python
"""What came of `training/own_images.sh`: how long its parts took, what the search gained, and a picture to look at.

    python benchmarks/own_images.py outputs/own-images --data IMAGES --output docs/runs/own-images.json

Distances are by the run's own judge. The picture beside the JSON has a row for each class: real images, what is left of them in
tokens, and images of the same noise by the strategy where the search began and by the best one.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import numpy_to_pil
from timing import made_with

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.command_line import print_table
from diffusers_autonat.files import write_json
from diffusers_autonat.image_datasets import ImageTransform, load_images, spread_rows
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics import Evaluator, load_extractor, load_reference, reconstruction
from diffusers_autonat.models.tokenizer import decode_tokens, encode_images
from diffusers_autonat.plots import plot_samples
from diffusers_autonat.provenance import pipeline_hash


EACH, SEED = 3, 0  # images of a class in the picture; of their noise


def told_by(history: Path) -> dict[str, float]:
    """The last line of a training's history, and what all its steps take at their median rate, whatever interrupted them."""
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    rates = [
        (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])
        for before, after in itertools.pairwise(rows) if after["seconds"] > before["seconds"]
    ]  # fmt: skip
    return {**rows[-1], "seconds": round(statistics.median(rates) * rows[-1]["step"])}


def reconstructed(pipe, run: Path, data: str) -> dict[str, float]:
    """Values of all images after a pass through the tokenizer: no strategy gets below this distance."""
    extractor = load_extractor(str(run / "judge")).to(default_device())
    reference = load_reference(str(run / "reference.npz"), extractor)
    names = list(extractor.id2label.values())
    _, make_images, requests = reconstruction(pipe, data, names)
    evaluator = Evaluator(pipe, extractor, reference, ("fid", "fid_error", "class"))
    [(_, values)] = evaluator.measure(make_images, requests, [len(requests)], "reconstruct")
    return values


@torch.no_grad()
def draw(pipe, data: str, strategies: dict[str, GenerationStrategy], path: str) -> None:
    """A row for each class, a group of columns for each way that images came to be."""
    rows = load_images(train_data_dir=data, split="train")
    names = rows.features["label"].names
    rows = rows.select(spread_rows(rows, "label", EACH * len(names)))
    labels = rows["label"][:]
    rows.set_transform(ImageTransform(pipe.vqvae.config.sample_size, pipe.vqvae.config.in_channels, "image", None))
    images = torch.stack(rows[:]["pixel_values"]).to(pipe.device)
    ways = {"real": images, "through the tokenizer": decode_tokens(pipe.vqvae, encode_images(pipe.vqvae, images))}
    for name, strategy in strategies.items():
        noise = [torch.Generator().manual_seed(SEED + number) for number in range(len(labels))]
        ways[name] = pipe(labels, strategy=strategy, generator=noise, output_type="pt").images
    groups = {}
    for name, made in ways.items():
        pictures = numpy_to_pil(VaeImageProcessor.pt_to_numpy(made.clamp(0, 1)))
        groups[name] = [
            [pictures[row] for row, label in enumerate(labels) if label == each] for each in range(len(names))
        ]
    plot_samples(groups, [name.replace(" & ", "\n& ") for name in names], path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of own_images.sh")
    parser.add_argument("--data", required=True, help="its images")
    parser.add_argument(
        "--output", default="own-images.json", help="JSON; the picture lies beside it, with the suffix .png"
    )
    args = parser.parse_args()
    pipe = load_pipeline(str(args.run / "autonat/pipeline")).to(default_device())
    pipe.set_progress_bar_config(disable=True)
    found = json.loads((args.run / "search/result.json").read_text())
    best = found["candidates"][0]
    start = next(candidate for candidate in found["candidates"] if candidate["label"].startswith("start"))

    floor = reconstructed(pipe, args.run, args.data)
    judge = json.loads((args.run / "judge/training.json").read_text())
    rows = [{"images": "real, held out from the judge", "class_consistency": judge["test_accuracy"]}]
    for name, values in (
        ("through the tokenizer", floor), (f"start, T = {start['num_inference_steps']}", start["values"]),
        (f"found, T = {best['num_inference_steps']}", best["values"]),
    ):  # fmt: skip
        rows.append({"images": name, **{key: round(value, 4) for key, value in values.items()}})
    columns = ["images", "frechet_distance", "frechet_distance_error", "class_consistency"]
    print_table(columns, [[row.get(column, "") for column in columns] for row in rows])

    trainings = {part: told_by(args.run / part / "history.jsonl") for part in ("vqgan", "autonat")}
    seconds = {
        part: json.loads((args.run / part / "training.json").read_text())["wall_time_s"]
        for part in ("perceptual", "judge")
    }
    seconds |= {part: values["seconds"] for part, values in trainings.items()}
    print_table(["training", "minutes"], [[part, round(each / 60)] for part, each in seconds.items()])
    write_json(args.output, {
        "rows": rows, "seconds": seconds, "trainings": trainings, "confirmed_with": found["num_images"],
        "pipeline": pipeline_hash(pipe), **made_with(),
    })  # fmt: skip
    strategies = {
        f"{name}, T = {candidate['num_inference_steps']}": GenerationStrategy.from_dict(candidate["strategy"])
        for name, candidate in (("heuristic", start), ("searched", best))
    }
    draw(pipe, args.data, strategies, f"{args.output.removesuffix('.json')}.png")


if __name__ == "__main__":
    main()
