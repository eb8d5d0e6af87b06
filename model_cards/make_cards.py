#!/usr/bin/env python
"""Turn a finished run of `training/fashion_mnist.sh` into the folders shipped here: weights in half precision, pictures, and
cards whose every figure is read from what the run has recorded, and which the folders keep (training/, evaluation/). Machine and
versions are those it runs with: run it where the models were trained.

    python model_cards/make_cards.py outputs/fashion-mnist --data /usr/share/datasets/fashion-mnist

A run without a tokenizer of its own was trained on the shipped one's tokens: what a folder says of that stays.

A strategy that a search has found for exactly these weights (`search/results/FOLDER-T8`) is stored; where there is none, the
heuristic: the most recognised one of the grid among those whose distance is within 10 % of the grid's best, as recognition
must not be bought with sameness. What a card reports is measured anew, with `diffusers-autonat evaluate` on other noise.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import card_texts
import torch
from card_texts import AUTONAT, CLASSIFIER_METADATA, DATASETS, ENAT, FIRST, SECOND, Classifier, Generator, read
from huggingface_hub import ModelCardData
from PIL import Image

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler
from diffusers_autonat.cards import classes, make_card, metadata, result, save_card
from diffusers_autonat.cli import main as diffusers_autonat
from diffusers_autonat.commands.plot import CURVES
from diffusers_autonat.files import write_json, write_text
from diffusers_autonat.image_datasets import IMAGE, LABEL, load_images
from diffusers_autonat.loading import load_pipeline
from diffusers_autonat.plots import plot_history, plot_samples
from diffusers_autonat.provenance import hardware, pipeline_hash
from diffusers_autonat.search.report import PROVENANCE, save_strategy
from diffusers_autonat.training.loop import History


JUDGE = FIRST.folder
REFERENCE = JUDGE / "fashion-mnist-test.npz"
SEARCHES, SPEEDS = Path("../search/results"), Path("../benchmarks/results/pipelines.json")
TOKENIZER_PARTS = ("vqgan-256", "vqgan-512", "vqgan-long", "vqgan")
TOKENIZER_BATCH = 32
DTYPE = "bfloat16"  # of the reports, as of the searches
RECIPE = f"{DTYPE}, Beta(12, 3), EMA 0.9995"
ENLARGE = 3
STEPS, REAL, DRAWN = (4, 8), 2, 5  # numbers of steps that are stored; images of each class in the picture


def choose(rows: list[dict], steps: int) -> dict:
    rows = [row for row in rows if row["steps"] == steps]
    bound = 1.1 * min(row["frechet_distance"] for row in rows)
    return max((row for row in rows if row["frechet_distance"] <= bound), key=lambda row: row["class_consistency"])


def strategy_of(grid: dict, row: dict) -> GenerationStrategy:
    names = ("steps", "sampling_temperature", "remasking_temperature", "guidance_scale")
    return getattr(GenerationStrategy, grid["heuristic"])(*(row[name] for name in names if name in row))


def tokens(pipeline: AutoNATPipeline, steps: int) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(100)]
    return pipeline(list(range(10)) * 10, num_inference_steps=steps, generator=generator, output_type="latent").images


def make_classifier(shipped: Classifier, run: Path, data: str, hardware: str) -> None:
    result, folder = read(run / shipped.part / "training.json"), shipped.folder
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "training.json"):
        shutil.copy(run / shipped.part / name, folder / name)
    save_card(folder, make_card(CLASSIFIER_METADATA, card_texts.classifier(shipped, result, hardware)))
    extractor = ["--feature-extractor", str(folder)]
    diffusers_autonat(["reference", f"{data}:test", *extractor, "--output", str(folder / "fashion-mnist-test.npz")])


def ship_in_halves(pipe: Any, folder: Path) -> None:
    """Write a folder anew, with weights in half precision."""
    pipe.to(dtype=torch.float16)
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    forget_names(folder)


def forget_names(folder: Path) -> None:
    """Where the run lay on this machine is nobody's business."""

    def without(pairs: list) -> dict:
        return {key: value for key, value in pairs if key != "_name_or_path"}

    for config in folder.rglob("*.json"):
        content = json.loads(config.read_text(), object_pairs_hook=without)
        write_text(config, json.dumps(content, indent=2, sort_keys=True) + "\n")


def store_found(folder: Path, steps: int, text_encoder: str | None = None) -> None:
    """The strategy that a search has found for exactly the weights of a folder, where there is one."""
    found = SEARCHES / f"{folder}-T{steps}"
    if not found.exists():
        return
    origin = read(found / PROVENANCE)[str(steps)]
    # Its hash is of weights of that dtype.
    searched = load_pipeline(folder, getattr(torch, origin["dtype"]), text_encoder=text_encoder)
    if origin["pipeline"] != pipeline_hash(searched):
        print(f"{found} is of other weights (hash {origin['pipeline']}): the heuristic of T = {steps} is stored.")
        return
    scheduler = NATScheduler.from_pretrained(folder, subfolder="scheduler")
    save_strategy(folder / "scheduler", scheduler, NATScheduler.from_pretrained(found).get_strategy(steps), origin)


def save_pipeline(model: Generator, run: Path, chosen: list[GenerationStrategy]) -> tuple[AutoNATPipeline, float]:
    """The shipped folder, new, with found strategies where there are some, and the share of tokens that half precision keeps."""
    pipe = load_pipeline(run / model.parts[-1] / "pipeline")
    pipe.scheduler = NATScheduler(pipe.scheduler.config.mask_token_id, [strategy.to_dict() for strategy in chosen])
    steps = chosen[-1].num_inference_steps
    exact = tokens(pipe, steps)
    ship_in_halves(pipe, model.folder)
    equal = (tokens(load_pipeline(model.folder), steps) == exact).float().mean().item()
    for strategy in chosen:
        store_found(model.folder, strategy.num_inference_steps)
    return load_pipeline(model.folder), equal


def origins(model: Generator) -> dict[str, dict]:
    """Where those of the stored strategies that a search has found come from, by their numbers of steps."""
    provenance = model.folder / "scheduler" / PROVENANCE
    return read(provenance) if provenance.exists() else {}


def tuned_heuristics(model: Generator) -> dict[int, dict]:
    """The heuristic that each found strategy was compared with; under `stored_value` what that one has on the same images."""
    tuned = {}
    for steps, origin in origins(model).items():
        baseline, found = (read(SEARCHES / f"{one}-{model.folder}-T{steps}.json") for one in ("baseline", "found"))
        row = found["rows"][0]
        assert baseline["pipeline"] == origin["pipeline"] == found["pipeline"]
        assert baseline["confirm_seed"] == origin["seed"] == found["confirm_seed"]
        assert baseline["hardware"] == row["hardware"]  # rounding of another gives other images
        tuned[int(steps)] = {**baseline, "stored_value": row["stored_value"]}
    return tuned


def draw_samples(model: Generator, pipe: AutoNATPipeline, data: str) -> None:
    """Of each class: the first test images, and as many drawn from the same noise with T = 4 and T = 8 as have room."""
    pipe.set_progress_bar_config(disable=True)
    labels = list(pipe.id2label)
    test = load_images(train_data_dir=data, split="test")
    rows = [[row for row, label in enumerate(test[LABEL]) if label == one][:REAL] for one in labels]
    groups = {"test images": [[test[row][IMAGE] for row in chosen] for chosen in rows]}
    for steps in STEPS:
        generators = [torch.Generator().manual_seed(i) for i in range(len(labels) * DRAWN)]
        images = pipe(labels, num_inference_steps=steps, num_images_per_prompt=DRAWN, generator=generators).images
        groups[f"T = {steps}"] = [images[i : i + DRAWN] for i in range(0, len(images), DRAWN)]
    plot_samples(groups, list(pipe.id2label.values()), model.folder / "samples.png")


def draw_training(history: list[dict], path: Path, title: str) -> None:
    plot_history(history, path, {name: CURVES[name] for name in ("loss", "token_accuracy")}, title)


def draw_pictures(model: Generator, pipe: AutoNATPipeline, history: list[dict], data: str) -> None:
    draw_samples(model, pipe, data)
    draw_training(history, model.folder / "training.png", f"{model.title} on Fashion-MNIST")


def evaluate(model: Generator, name: str, *arguments: str) -> None:
    """Let `diffusers-autonat evaluate` write a report to the folder."""
    output = model.folder / "evaluation" / f"{name}.json"
    judge = ["--feature-extractor", str(JUDGE), "--reference", str(REFERENCE), "--metrics", "fid,class,per_class"]
    diffusers_autonat(["evaluate", str(model.folder), *judge, *arguments, "--output", str(output)])


def evaluate_strategies(model: Generator, *arguments: str) -> None:
    """Report on each stored strategy, and beside a found one on the heuristic that a grid has tuned for the same T."""
    tuned = tuned_heuristics(model)
    for steps in STEPS:
        evaluate(model, f"T{steps}", "--num-inference-steps", str(steps), *arguments)
        if steps in tuned:
            file = model.folder / "evaluation" / f"T{steps}-heuristic-strategy.json"
            write_json(file, tuned[steps]["strategy"])
            evaluate(model, f"T{steps}-heuristic", "--strategy", str(file), *arguments)


def reports(model: Generator) -> dict[str, dict]:
    """The reports in the folder, in the order of the card's table."""
    names = [f"T{steps}{of}" for steps in STEPS for of in ("", "-heuristic")]
    files = {name: model.folder / "evaluation" / f"{name}.json" for name in ("reconstructions", *names)}
    return {name: read(file) for name, file in files.items() if file.exists()}


def joined_history(run: Path, parts: tuple[str, ...]) -> list[dict]:
    """One history of parts that follow each other: steps go on; seconds begin anew, as after a kill."""
    joined: list[dict] = []
    for part in parts:
        first = joined[-1]["step"] if joined else 0
        joined += [{**row, "step": row["step"] + first} for row in History.read(run / part / "history.jsonl")]
    return joined


def tokenizer_of(run: Path) -> tuple[dict, Image.Image]:
    """What a run says of its tokenizer, and its latest reconstructions."""
    histories = [History.read(run / part / "history.jsonl") for part in TOKENIZER_PARTS]
    picture = Image.open(max((run / "vqgan" / "samples").glob("step-*.png")))
    return {
        "perceptual": read(run / "perceptual" / "training.json"),
        "steps": [history[-1]["step"] for history in histories],
        "batch": TOKENIZER_BATCH,
        "seconds": sum(map(card_texts.wall_seconds, histories)),
        "notes": "",
    }, picture.resize((picture.width * ENLARGE, picture.height * ENLARGE), 0)


def shipped_tokenizer(model: Generator) -> tuple[dict, Image.Image]:
    """The same, as the shipped folder says it."""
    picture = Image.open(model.folder / "reconstructions.png")
    picture.load()  # before the folder is made anew
    return read(model.folder / "training" / "tokenizer.json"), picture


def transformer_of(run: Path, model: Generator, history: list[dict], equal_tokens: float, notes: str) -> dict:
    """What a run says of its transformer."""
    first = history[0]
    return {
        "steps": [History.read(run / part / "history.jsonl")[-1]["step"] for part in model.parts],
        "batch": round(first["images_per_second"] * first["seconds"] / first["step"]),
        "recipe": RECIPE,
        "equal_tokens": equal_tokens,
        "hardware": hardware(),
        "notes": notes,
    }


def training_records(model: Generator) -> tuple[dict, dict, list[dict]]:
    """What the folder keeps of its training: of the tokenizer, of the transformer, and the transformer's history."""
    folder = model.folder / "training"
    return read(folder / "tokenizer.json"), read(folder / "transformer.json"), History.read(folder / "history.jsonl")


def images_seen(model: Generator) -> int:
    transformer = read(model.folder / "training" / "transformer.json")
    return sum(transformer["steps"]) * transformer["batch"]


def compare() -> str:
    """ENAT beside AutoNAT, both with their stored strategies: quality from the reports in both folders, cost and speed from the
    benchmark."""
    stored, sizes = {}, set()
    for model in (AUTONAT, ENAT):
        known = reports(model)
        for steps in (4, 8):
            report = stored[model.tag, steps] = known[f"T{steps}"]
            sizes.add((report["images"]["num_images"], images_seen(model)))
    if len(sizes) > 1:
        raise ValueError(f"reported and trained with other numbers of images: {sizes}; make both folders alike.")
    parameters = load_pipeline(AUTONAT.folder).transformer.num_parameters()
    return card_texts.comparison(stored, read(SPEEDS), images_seen(ENAT), parameters)


def measured_sections(model: Generator) -> list[str]:
    """What the folder itself shows: its strategies and how good they are."""
    grid = read(model.folder / "evaluation" / "grid.json")
    chosen = [choose(grid["grid"], steps) for steps in sorted({row["steps"] for row in grid["grid"]})]
    return [
        card_texts.strategies(chosen, origins(model), tuned_heuristics(model)),
        card_texts.quality(model, reports(model), grid, tuned_heuristics(model)),
        card_texts.by_class(reports(model)),
        *([compare()] if model is ENAT else []),
        card_texts.training(*training_records(model)),
    ]


def make_generator(model: Generator, run: Path, data: str, num_images: int, seed: int, notes: str) -> None:
    grid = read(run / model.grid)
    chosen = [choose(grid["grid"], steps) for steps in sorted({row["steps"] for row in grid["grid"]})]
    heuristics = [strategy_of(grid, row) for row in chosen]
    tokenizer, reconstructions = tokenizer_of(run) if (run / "vqgan").exists() else shipped_tokenizer(model)
    pipe, equal_tokens = save_pipeline(model, run, heuristics)
    history = joined_history(run, model.parts)
    for name in ("evaluation", "training"):
        (model.folder / name).mkdir()
    write_json(model.folder / "training" / "tokenizer.json", tokenizer)
    write_json(
        model.folder / "training" / "transformer.json", transformer_of(run, model, history, equal_tokens, notes)
    )
    write_text(model.folder / "training" / "history.jsonl", "".join(f"{json.dumps(row)}\n" for row in history))
    reconstructions.save(model.folder / "reconstructions.png")
    draw_pictures(model, pipe, history, data)
    shutil.copy(run / model.grid, model.folder / "evaluation" / "grid.json")
    size = ["--num-images", str(num_images)]
    evaluate(model, "reconstructions", "--reconstruct", f"{data}:test", *size)
    evaluate_strategies(model, "--dtype", DTYPE, "--seed", str(seed), *size)
    save_card(model.folder, make_card(card_metadata(model), sections(model, pipe)))


def sections(model: Generator, pipe: AutoNATPipeline) -> list[str]:
    """The whole card, from what lies in the folder."""
    return [
        card_texts.introduction(model, pipe, reports(model), tuned_heuristics(model)),
        card_texts.how_to_use(model),
        card_texts.samples(model),
        classes(pipe.id2label, pipe.transformer.config.num_classes),
        *measured_sections(model),
        card_texts.limits(pipe.transformer.config.sample_size**2, reports(model)),
    ]


def card_metadata(model: Generator) -> ModelCardData:
    """Of the card, with what the reports have measured of the stored strategies, as the Hub lists it."""
    results = []
    for name, report in reports(model).items():
        if name.startswith("T") and "heuristic" not in name:
            on = f"T = {name[1:]}, N = {report['images']['num_images']:,}"
            distance, recognised = (report["values"][key] for key in ("frechet_distance", "class_consistency"))
            results.append(
                result("frechet_distance", distance, DATASETS[0], f"Fréchet distance of classifier features, {on}")
            )
            results.append(result("accuracy", recognised, DATASETS[0], f"recognised by the classifier, {on}"))
    tags = [model.tag, "class-conditional"]
    return metadata("apache-2.0", tags, DATASETS, name=model.folder.name, results=results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of training/fashion_mnist.sh")
    parser.add_argument("--data", required=True, help="folder of the IDX files")
    parts = ["classifier", "second-classifier", "autonat", "enat"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--num-images", type=int, default=5000, help="of each report")
    parser.add_argument("--seed", type=int, default=1, help="of each report; another than the grid's")
    parser.add_argument("--notes", default="", help="what a reader must know about this run, for the card")
    args = parser.parse_args()
    args.run, args.data = args.run.resolve(), str(Path(args.data).resolve())
    os.chdir(Path(__file__).parent)  # so that reports name folders as the Hub does
    for part, shipped in (("classifier", FIRST), ("second-classifier", SECOND)):
        if part in args.only:
            make_classifier(shipped, args.run, args.data, hardware())
    for model in (AUTONAT, ENAT):
        if model.tag in args.only:
            make_generator(model, args.run, args.data, args.num_images, args.seed, args.notes)


if __name__ == "__main__":
    main()
