#!/usr/bin/env python
"""How good is a Fashion-MNIST pipeline: its tokenizer's reconstructions, and the heuristic strategy over lambda and k.

    python benchmarks/heuristic_grid.py PIPELINE --judge JUDGE --data /usr/share/datasets/fashion-mnist --output grid.json

The judge is a classifier trained on real images only. Distances are Fréchet distances between its features and those of
the 10,000 test images (not FID: the network is not Inception). All strategies draw the same labels and noise.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from diffusers_autonat import AutoNATPipeline, GenerationStrategy
from diffusers_autonat.metrics import balanced_labels, build_metrics, load_extractor, load_reference
from diffusers_autonat.training.data import ImageTransform, load_images
from diffusers_autonat.training.model_card import hardware, versions
from diffusers_autonat.training.tokens import encode_images


@torch.no_grad()
def measure(batches, extractor, reference, num_images: int) -> dict[str, float]:
    metrics = build_metrics(["fid", "class"], extractor, num_images, reference)
    done = 0
    for images, labels in batches:
        indices = torch.arange(done, done + len(images))
        features, logits = extractor(images, indices)
        metrics.update(features=features, logits=logits, labels=labels, indices=indices)
        done += len(images)
    values = metrics.compute()
    return {name: round(value.item(), 4) for name, value in values.items() if value.numel() == 1}


def generated(pipe, num_images: int, batch_size: int, seed: int, **kwargs):
    labels = balanced_labels(num_images, pipe.transformer.config.num_classes)
    for start in range(0, num_images, batch_size):
        indices = range(start, min(start + batch_size, num_images))
        generator = [torch.Generator().manual_seed(seed * 1_000_000 + i) for i in indices]
        batch = labels[start : start + batch_size]
        yield pipe(batch, generator=generator, output_type="pt", **kwargs).images, batch


def real(dataset: Dataset, batch_size: int, pipe=None):
    """Test images, or their reconstructions."""
    for start in range(0, len(dataset), batch_size):
        rows = dataset[start : start + batch_size]
        images = torch.stack(rows["pixel_values"])
        yield (images if pipe is None else pipe.decode_latents(encode_images(pipe.vqvae, images))), torch.tensor(rows["labels"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--data", required=True, help="folder of the IDX files")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--remasking-temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.5], help="lambda")
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[0.5, 1.0, 2.0, 3.0], help="k")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="grid.json")
    args = parser.parse_args()

    pipe = AutoNATPipeline.from_pretrained(args.pipeline)
    pipe.set_progress_bar_config(disable=True)
    extractor = load_extractor(args.judge).eval()
    test = load_images(train_data_dir=args.data, split="test")
    reference = load_reference(test, extractor)
    test.set_transform(ImageTransform(28, 1, "image", "label"))
    result = {
        "pipeline": args.pipeline, "num_images": args.num_images, "seed": args.seed, "labels": "balanced",
        "reference": {"source": "Fashion-MNIST test", "num_images": len(test), "hash": reference.hash},
        "extractor": extractor.identity(), "hardware": hardware(),
        "versions": versions("torch", "diffusers", "transformers"),
        "real_test_images": measure(real(test, args.batch_size), extractor, reference, len(test)),
        "reconstructed_test_images": measure(real(test, args.batch_size, pipe=pipe), extractor, reference, len(test)),
        "heuristic": [],
    }  # fmt: skip
    print("real", result["real_test_images"], "\nreconstructed", result["reconstructed_test_images"], flush=True)
    grid = [(t, tau, k) for t in args.steps for tau in args.remasking_temperatures for k in args.guidance_scales]
    for steps, remasking, guidance in tqdm(grid):
        strategy = GenerationStrategy.cosine(steps, remasking_temperature=remasking, guidance_scale=guidance)
        start = time.time()
        row = measure(
            generated(pipe, args.num_images, args.batch_size, args.seed, strategy=strategy), extractor, reference,
            args.num_images,
        )  # fmt: skip
        row |= {"steps": steps, "remasking_temperature": remasking, "guidance_scale": guidance,
                "seconds": round(time.time() - start, 1)}  # fmt: skip
        result["heuristic"].append(row)
        tqdm.write(json.dumps(row))
        Path(args.output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
