#!/usr/bin/env python
"""How good is a Fashion-MNIST pipeline: its tokenizer's reconstructions, and a heuristic strategy over lambda and k.

    python benchmarks/heuristic_grid.py PIPELINE --judge JUDGE --data /usr/share/datasets/fashion-mnist --output grid.json

The judge is a classifier trained on real images only. Distances are Fréchet distances between its features and those of
the 10,000 test images (not FID: the network is not Inception). All strategies draw the same labels and noise. Run again, it goes on.

It fills the tables of the shipped cards: every point of either paper's heuristic with the share of recognised images, beside
real images and reconstructions. `search/experiments.py baseline` is the other grid: a study that tunes the one heuristic which
a search is compared with, on the search's images and confirmed on fresh ones.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from timing import differences, made_with
from tqdm.auto import tqdm

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.files import write_json
from diffusers_autonat.image_datasets import ImageTransform, load_images
from diffusers_autonat.loading import load_pipeline
from diffusers_autonat.metrics import Evaluator, Requests, load_extractor, load_reference
from diffusers_autonat.models.tokenizer import encode_images
from diffusers_autonat.provenance import model_hash


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--data", required=True, help="folder of the IDX files")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--heuristic", choices=["cosine", "enat"], default="cosine", help="AutoNAT's or ENAT's")
    parser.add_argument(
        "--sampling-temperatures", type=float, nargs="+", default=[1.0], help="tau1; of enat at its start"
    )
    parser.add_argument("--remasking-temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.5], help="lambda")
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[0.5, 1.0, 2.0, 3.0], help="k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="grid.json")
    args = parser.parse_args()

    pipe = load_pipeline(args.pipeline)
    extractor = load_extractor(args.judge)
    test = load_images(train_data_dir=args.data, split="test")
    labels = torch.tensor(test["label"][:])
    reference = load_reference(test, extractor)
    test.set_transform(ImageTransform(28, 1, "image", "label"))
    evaluator = Evaluator(pipe, extractor, reference, progress=False)

    def real(indices, requests):
        return torch.stack(test[indices.tolist()]["pixel_values"])

    def reconstructed(indices, requests):
        return pipe.decode_latents(encode_images(pipe.vqvae, real(indices, requests)))

    def measure(make_images):
        ((_, values),) = evaluator.measure(make_images, Requests.of_classes(labels), [len(test)])
        return rounded(values)

    made_of = {
        "pipeline": args.pipeline, "transformer_hash": model_hash(pipe.transformer), "vqvae_hash": model_hash(pipe.vqvae),
        "num_images": args.num_images, "seed": args.seed, "labels": "balanced", "heuristic": args.heuristic,
        "reference": {"source": "Fashion-MNIST test", "num_images": len(test), "hash": reference.hash},
        "extractor": extractor.identity(), **made_with("transformers"),
    }  # fmt: skip
    output = Path(args.output)
    result = json.loads(output.read_text()) if output.exists() else {}
    if result and differences(result, made_of):
        raise ValueError(f"{output} holds the grid of something else: name another --output, or delete it.")
    if not result:
        result = {
            **made_of,
            "real_test_images": measure(real),
            "reconstructed_test_images": measure(reconstructed),
            "grid": [],
        }
    print("real", result["real_test_images"], "\nreconstructed", result["reconstructed_test_images"], flush=True)
    heuristic = getattr(GenerationStrategy, args.heuristic)
    points = product(args.steps, args.sampling_temperatures, args.remasking_temperatures, args.guidance_scales)
    names = ("steps", "sampling_temperature", "remasking_temperature", "guidance_scale")
    done = {tuple(row[name] for name in names) for row in result["grid"]}
    for point in tqdm([point for point in points if point not in done]):
        start = time.time()
        row = dict(zip(names, point)) | rounded(evaluator(args.num_images, args.seed, heuristic(*point)))
        row["seconds"] = round(time.time() - start, 1)
        result["grid"].append(row)
        tqdm.write(json.dumps(row))
        write_json(output, result)


if __name__ == "__main__":
    main()
