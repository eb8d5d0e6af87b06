#!/usr/bin/env python
"""Turn a finished run of `training/fashion_mnist.sh` into the folders shipped here: weights in half precision, pictures, and
cards whose every figure is read from what the run has recorded.

    python model_cards/make_cards.py outputs/fashion-mnist --data /usr/share/datasets/fashion-mnist

For each T the stored strategy is the most recognised one of the grid among those whose distance is within 10 % of the
grid's best: recognition must not be bought with sameness. What the card reports is measured anew, with `diffusers-autonat
evaluate` on other noise than the grid's.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler
from diffusers_autonat.cli import main as diffusers_autonat
from diffusers_autonat.training.loop import History
from diffusers_autonat.training.model_card import plot_history


CLASSIFIER, AUTONAT = Path("fashion-mnist-classifier"), Path("autonat-fashion-mnist")
REFERENCE = CLASSIFIER / "fashion-mnist-test.npz"
ENLARGE = 3

CLASSIFIER_CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: image-classification
datasets:
- zalando-datasets/fashion_mnist
tags:
- fashion-mnist
- evaluation
---

# Fashion-MNIST classifier

A RegNet of {parameters:,} parameters that recognises {test_accuracy:.2%} of the 10,000 Fashion-MNIST test images. It is the
judge and the feature extractor of the Fashion-MNIST models of
[diffusers-autonat](https://pypi.org/project/diffusers-autonat/), and took no part in their training.

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("fashion-mnist-classifier", backend="pil")  # grey images, enlarged
model = AutoModelForImageClassification.from_pretrained("fashion-mnist-classifier")
```

Trained on the 60,000 training images by `accelerate launch training/train_classifier.py` ({epochs} epochs, seed {seed},
{minutes:.0f} minutes on {hardware}, a machine shared with other runs), with shifts of up to two pixels and label smoothing
0.05. [fashion-mnist-test.npz](fashion-mnist-test.npz) holds its features' statistics over the 10,000 test images; a distance
on these features is not FID.

```bash
diffusers-autonat evaluate autonat-fashion-mnist --reference fashion-mnist-classifier/fashion-mnist-test.npz \\
    --feature-extractor fashion-mnist-classifier --metrics fid,class --num-images 1000 --output report.json
```
"""

AUTONAT_CARD = """---
library_name: diffusers
license: apache-2.0
pipeline_tag: unconditional-image-generation
datasets:
- zalando-datasets/fashion_mnist
tags:
- diffusers
- autonat
- masked-image-generation
- class-conditional
---

# AutoNAT on Fashion-MNIST

A small class-conditional masked-token model (AutoNAT, [arXiv:2406.05478](https://huggingface.co/papers/2406.05478)): a VQ
tokenizer (28 x 28 grey images to {side} x {side} tokens of a {codes}-entry codebook, {tokenizer_parameters:.2f}M parameters) and a
U-ViT of {parameters:,} parameters, both trained by the scripts of
[diffusers-autonat](https://pypi.org/project/diffusers-autonat/) on the 60,000 training images. It is there to see, test and
search with, not to compete.

```python
import torch
from diffusers_autonat import AutoNATPipeline

pipe = AutoNATPipeline.from_pretrained("autonat-fashion-mnist")
images = pipe(["Sneaker", "Bag"], num_inference_steps=8, generator=torch.Generator().manual_seed(0)).images
```

![eight samples of each class at T = 8, seed 0](samples.png)

Rows: {classes}. The picture is what
`diffusers-autonat generate autonat-fashion-mnist --num-images 8 --seed 0` draws.

## Strategies

Stored are the paper's heuristics for {stored}. For each T it is the most recognised one of the grid below among
those whose distance is within 10 % of the grid's best.

## Quality

Distances are Fréchet distances on the {features} features of [fashion-mnist-classifier](../fashion-mnist-classifier/README.md)
(weights {extractor_hash}), which is no Inception network: they are **not** FID and compare with nothing measured
elsewhere. "Recognised" is the share of images that this classifier takes for the class that was asked for. Reference:
the 10,000 test images (hash {reference_hash}).

| images (N = {report_images:,}) | distance | recognised | report |
|---|---|---|---|
| reconstructions of test images | {floor[frechet_distance]:.3f} | {floor[class_consistency]:.1%} | [reconstructions.json](evaluation/reconstructions.json) |
{stored_rows}

Generated with balanced labels, seed {report_seed}, float32. Of all 10,000 test images the classifier recognises
{real[class_consistency]:.1%}, of their reconstructions {reconstructed[class_consistency]:.1%}. `diffusers-autonat evaluate` makes every report
again:

```bash
diffusers-autonat evaluate autonat-fashion-mnist --num-inference-steps 8 --num-images {report_images} --seed {report_seed} \\
    --metrics fid,class --feature-extractor fashion-mnist-classifier \\
    --reference fashion-mnist-classifier/fashion-mnist-test.npz --output report.json
```

The grid the stored strategies were chosen from (N = {num_images:,}, seed {seed}; `benchmarks/heuristic_grid.py`, [grid.json](evaluation/grid.json)):

| T | lambda | k | distance | recognised |
|---|---|---|---|---|
{grid_rows}

Measured on {evaluated_on}.

## Training

`bash training/fashion_mnist.sh` has every command. Float32, seed 0, on {hardware}, a machine shared with other runs, so that
the times are upper bounds:

| part | what was run | time |
|---|---|---|
| perceptual network | RegNet of {perceptual[parameters]:,} parameters, {perceptual[epochs]} epochs, test accuracy {perceptual[test_accuracy]:.1%} | {perceptual_minutes:.0f} min |
| tokenizer | {tokenizer_steps} steps of {tokenizer_batch} images, with 256 and then 512 codes; L1 + L2 + perceptual, then adversarial too | {tokenizer_minutes:.0f} min |
| transformer | {steps:,} steps of {batch} images ({seen:,} in all), Beta(12, 3), EMA 0.999 | {minutes:.0f} min |

{notes}Loss and masked-token accuracy at the end: {loss:.2f} and {accuracy:.1%} (low is normal: many codes fit a place).

![loss and token accuracy of the transformer](training.png)

![test of the tokenizer: originals above, reconstructions below](reconstructions.png)

Weights are stored in half precision and loaded in float32; against the float32 weights {equal_tokens:.1%} of the tokens of 100
images drawn with equal noise are the same.

## Limits

- Fine print and checks are blurred by a tokenizer of {num_tokens} tokens; sandals break apart more often than other classes.
- Fashion-MNIST has ten classes and one view of each; the model knows nothing else.
- The tokenizer was trained against features of a network trained on the same images (another one than the judge).
"""


def wall_seconds(history: list[dict]) -> float:
    """Seconds of all parts of a run; the clock starts anew where it was resumed."""
    total = last = 0.0
    for row in history:
        total += row["seconds"] - last if row["seconds"] >= last else row["seconds"]
        last = row["seconds"]
    return total


def choose(rows: list[dict], steps: int) -> dict:
    rows = [row for row in rows if row["steps"] == steps]
    bound = 1.1 * min(row["frechet_distance"] for row in rows)
    return max((row for row in rows if row["frechet_distance"] <= bound), key=lambda row: row["class_consistency"])


def tokens(pipeline: AutoNATPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(100)]
    return pipeline(list(range(10)) * 10, generator=generator, output_type="latent").images


def make_classifier(run: Path, data: str, hardware: str) -> None:
    folder, result = CLASSIFIER, json.loads((run / "judge" / "training.json").read_text())
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "training.json"):
        shutil.copy(run / "judge" / name, folder / name)
    card = CLASSIFIER_CARD.format(**result, minutes=result["wall_time_s"] / 60, hardware=hardware)
    (folder / "README.md").write_text(card)
    extractor = ["--feature-extractor", str(folder)]
    diffusers_autonat(["evaluate", "--reference", f"{data}:test", *extractor, "--save-reference", str(REFERENCE)])


def evaluate(output: Path, *arguments: str) -> dict:
    """The report of `diffusers-autonat evaluate`."""
    judge = ["--feature-extractor", str(CLASSIFIER), "--reference", str(REFERENCE), "--metrics", "fid,class"]
    diffusers_autonat(["evaluate", str(AUTONAT), *judge, *arguments, "--output", str(output)])
    return json.loads(output.read_text())


def make_autonat(run: Path, data: str, num_images: int, seed: int, notes: str) -> None:
    folder, evaluation = AUTONAT, json.loads((run / "grid.json").read_text())
    grid = evaluation["grid"]
    chosen = [choose(grid, steps) for steps in sorted({row["steps"] for row in grid})]
    strategies = [
        GenerationStrategy.cosine(
            row["steps"], remasking_temperature=row["remasking_temperature"], guidance_scale=row["guidance_scale"]
        ).to_dict()
        for row in chosen
    ]
    pipe = AutoNATPipeline.from_pretrained(run / "autonat" / "pipeline")
    pipe.scheduler = NATScheduler(pipe.scheduler.config.mask_token_id, strategies)
    exact = tokens(pipe)
    pipe.to(dtype=torch.float16)
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    pipe = AutoNATPipeline.from_pretrained(folder)
    equal = (tokens(pipe) == exact).float().mean().item()

    images = pipe(list(range(10)), num_images_per_prompt=8, generator=torch.Generator().manual_seed(0)).images
    images = [image.resize((image.width * ENLARGE, image.height * ENLARGE), 0) for image in images]
    make_image_grid(images, rows=10, cols=8).save(folder / "samples.png")
    picture = Image.open(max((run / "vqgan" / "samples").glob("step-*.png")))
    picture.resize((picture.width * ENLARGE, picture.height * ENLARGE), 0).save(folder / "reconstructions.png")
    history = History.read(run / "autonat" / "history.jsonl")
    plot_history(history, folder / "training.png", {"loss": "loss", "token_accuracy": "masked-token accuracy"})
    reports = folder / "evaluation"
    reports.mkdir()
    shutil.copy(run / "grid.json", reports)
    size = ["--num-images", str(num_images)]
    floor = evaluate(reports / "reconstructions.json", "--reconstruct", f"{data}:test", *size)["values"]
    measured = {}
    for steps in (row["steps"] for row in chosen):
        arguments = ["--num-inference-steps", str(steps), "--seed", str(seed), *size]
        measured[steps] = evaluate(reports / f"T{steps}.json", *arguments)["values"]

    tokenizer = [History.read(run / part / "history.jsonl") for part in ("vqgan-256", "vqgan")]
    perceptual = json.loads((run / "perceptual" / "training.json").read_text())
    batch = round(history[0]["images_per_second"] * history[0]["seconds"] / history[0]["step"])
    row_format = "| {kind}{steps} | {remasking_temperature:g} | {guidance_scale:g} | {frechet_distance:.3f} | {class_consistency:.1%} |"
    config = pipe.transformer.config
    card = AUTONAT_CARD.format(
        side=config.sample_size, num_tokens=config.sample_size**2, codes=config.codebook_size,
        tokenizer_parameters=sum(p.numel() for p in pipe.vqvae.parameters()) / 1e6,
        parameters=sum(p.numel() for p in pipe.transformer.parameters()), classes=", ".join(pipe.id2label.values()),
        stored=", ".join(
            f"T = {row['steps']} (lambda {row['remasking_temperature']:g}, k {row['guidance_scale']:g})" for row in chosen
        ),
        features=evaluation["extractor"]["num_features"], extractor_hash=evaluation["extractor"]["weights_hash"],
        reference_hash=evaluation["reference"]["hash"], num_images=evaluation["num_images"], seed=evaluation["seed"],
        real=evaluation["real_test_images"], reconstructed=evaluation["reconstructed_test_images"],
        floor=floor, report_images=num_images, report_seed=seed,
        stored_rows="\n".join(
            f"| generated, T = {steps}, stored strategy | {values['frechet_distance']:.3f} | {values['class_consistency']:.1%} "
            f"| [T{steps}.json](evaluation/T{steps}.json) |"
            for steps, values in measured.items()
        ),
        grid_rows="\n".join(row_format.format(kind="", **row) for row in grid),
        evaluated_on=", ".join(
            [evaluation["hardware"], *(f"{name} {number}" for name, number in evaluation["versions"].items())]
        ),
        hardware=evaluation["hardware"], perceptual=perceptual, perceptual_minutes=perceptual["wall_time_s"] / 60,
        tokenizer_steps=" + ".join(f"{part[-1]['step']:,}" for part in tokenizer), tokenizer_batch=32,
        tokenizer_minutes=sum(map(wall_seconds, tokenizer)) / 60, steps=history[-1]["step"], batch=batch,
        seen=history[-1]["step"] * batch, minutes=wall_seconds(history) / 60, loss=history[-1]["loss"],
        accuracy=history[-1]["token_accuracy"], equal_tokens=equal, notes=notes + " " if notes else "",
    )  # fmt: skip
    (folder / "README.md").write_text(card)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of training/fashion_mnist.sh")
    parser.add_argument("--data", required=True, help="folder of the IDX files")
    parser.add_argument("--num-images", type=int, default=5000, help="of each report")
    parser.add_argument("--seed", type=int, default=1, help="of each report; another than the grid's")
    parser.add_argument("--notes", default="", help="what a reader must know about this run, for the card")
    args = parser.parse_args()
    args.run, args.data = args.run.resolve(), str(Path(args.data).resolve())
    os.chdir(Path(__file__).parent)  # so that reports name folders as the Hub does
    hardware = json.loads((args.run / "grid.json").read_text())["hardware"]
    make_classifier(args.run, args.data, hardware)
    make_autonat(args.run, args.data, args.num_images, args.seed, args.notes)


if __name__ == "__main__":
    main()
