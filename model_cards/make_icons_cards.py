#!/usr/bin/env python
r"""Turn a finished run of `training/icons.sh` into the tokenizer, the text-to-image model and its two judges that are shipped here:
weights in half precision, without the text encoder, which is named; pictures; cards whose every figure is read from what the
folders keep. Machine and versions are those it runs with: run it where the models were trained.

    python model_cards/make_icons_cards.py outputs/icons --text-encoder ENCODER

Run it before the search, which wants the weights as they are shipped, and again after it: a strategy that was found for exactly
these weights (`search/results/autonat-icons-text-T8`) is then stored:

    diffusers-autonat search generation model_cards/autonat-icons-text --text-encoder ENCODER --num-inference-steps 8 \
        --reference model_cards/icons-style-judge/icons-train.npz --captions outputs/icons/data:train \
        --feature-extractor model_cards/icons-style-judge --sampler population --knots 8 --num-images 1024 --num-trials 24 \
        --remasking-temperature 2 --guidance-scale 2 --dtype bfloat16 --confirm-top 2 --confirm-images 2000 \
        --output search/results/autonat-icons-text-T8
"""

import argparse
import os
import shutil
from pathlib import Path

import icons_texts
import torch
from card_texts import read, wall_seconds
from datasets import load_dataset
from diffusers import VQModel
from icons_texts import ENCODER, FOLDER, SPLITS, STEPS, STYLE_JUDGE, TEXT_JUDGE, THINGS, TOKENIZER
from make_cards import DTYPE, ENLARGE, draw_training, forget_names, ship_in_halves, store_found
from PIL import Image

from diffusers_autonat import GenerationStrategy, NATScheduler
from diffusers_autonat.cards import make_card, save_card
from diffusers_autonat.cli import main as diffusers_autonat
from diffusers_autonat.commands.plot import CURVES
from diffusers_autonat.files import whole_file, write_json
from diffusers_autonat.loading import load_pipeline
from diffusers_autonat.plots import plot_history, plot_samples
from diffusers_autonat.provenance import hardware, versions
from diffusers_autonat.search.report import PROVENANCE
from diffusers_autonat.training.loop import History


HEURISTIC = {"remasking_temperature": 2.0, "guidance_scale": 2.0}
REFERENCE = STYLE_JUDGE / "icons-train.npz"
CAPTIONS = 1000  # of the training set, drawn with seed 0; of the others all


def make_tokenizer(run: Path) -> None:
    """The tokenizer in half precision, with the pictures and figures of its training."""
    shutil.rmtree(TOKENIZER, ignore_errors=True)
    vqvae = VQModel.from_pretrained(run / "vqgan" / "vqvae").to(torch.float16)
    vqvae.save_pretrained(TOKENIZER)
    forget_names(TOKENIZER)
    history = History.read(run / "vqgan" / "history.jsonl")
    names = ("l1", "perceptual", "codes_used")
    plot_history(history, TOKENIZER / "training.png", {name: CURVES[name] for name in names}, "tokenizer of icons")
    picture = Image.open(max((run / "vqgan" / "samples").glob("step-*.png")))
    picture.resize((picture.width * ENLARGE, picture.height * ENLARGE), 0).save(TOKENIZER / "reconstructions.png")
    write_json(TOKENIZER / "training.json", {
        "parameters": vqvae.num_parameters(), "steps": history[-1]["step"], "batch": 32, "codes": history[-1]["codes_used"],
        "l1": sum(row["l1"] for row in history[-50:]) / 50, "seconds": wall_seconds(history), "hardware": hardware(),
        "versions": versions("torch", "diffusers", "accelerate"), "perceptual": read(run / "perceptual" / "training.json"),
    })  # fmt: skip


def make_judges(run: Path, data: str) -> None:
    """Both judges as they were trained, and the training drawings' statistics."""
    for source, judge in ((run / "style-judge", STYLE_JUDGE), (run / "text-judge" / "judge", TEXT_JUDGE)):
        shutil.rmtree(judge, ignore_errors=True)
        shutil.copytree(source, judge, ignore=shutil.ignore_patterns("*.png", "history.jsonl", ".*"))
        forget_names(judge)
    diffusers_autonat(
        ["reference", f"{data}:train", "--feature-extractor", str(STYLE_JUDGE), "--output", str(REFERENCE)]
    )


def make_pipeline(run: Path, encoder: str) -> None:
    """The shipped folder, new: halves, the heuristic, or what a search has found for these very weights."""
    pipe = load_pipeline(run / "autonat" / "pipeline")
    pipe.register_modules(text_encoder=None, tokenizer=None)
    heuristic = GenerationStrategy.cosine(STEPS, **HEURISTIC)
    pipe.scheduler = NATScheduler(pipe.scheduler.config.mask_token_id, [heuristic.to_dict()])
    ship_in_halves(pipe, FOLDER)
    store_found(FOLDER, STEPS, encoder)


def evaluate(name: str, encoder: str, *arguments: str) -> None:
    """Two reports, of either judge."""
    for judge, metrics in ((TEXT_JUDGE, "r_precision"), (STYLE_JUDGE, "fid,class,per_class")):
        words = ["evaluate", str(FOLDER), "--feature-extractor", str(judge), "--metrics", metrics, *arguments]
        words += ["--text-encoder", encoder]
        words += ["--reference", str(REFERENCE)] if "fid" in metrics else []
        diffusers_autonat([*words, "--output", str(FOLDER / "evaluation" / f"{name}-{icons_texts.KINDS[judge]}.json")])


def evaluate_all(run: Path, encoder: str, data: str) -> None:
    """Report on what is drawn of the captions of each split with the stored strategy, and where that was found also with the
    heuristic, and on what the tokenizer leaves of the split's drawings; by both judges."""
    sample = run / "sample"  # Parquet, so that reports name it without its place
    sample.mkdir(exist_ok=True)
    if not (sample / "train.parquet").exists():
        with whole_file(sample / "train.parquet") as partial:
            load_dataset(data, split="train").shuffle(seed=0).select(range(CAPTIONS)).to_parquet(partial)
    heuristic = FOLDER / "evaluation" / "heuristic-strategy.json"
    write_json(heuristic, GenerationStrategy.cosine(STEPS, **HEURISTIC).to_dict())
    ways = {
        "": [],
        **({"-heuristic": ["--strategy", str(heuristic)]} if (FOLDER / "scheduler" / PROVENANCE).exists() else {}),
    }
    for split in SPLITS:
        source = f"{sample}:train" if split == "train" else f"{data}:{split}"
        number = str(len(load_dataset(data, split=split)) if split != "train" else CAPTIONS)
        for way, words in ways.items():
            drawn = ("--captions", source, "--num-images", number, "--num-inference-steps", str(STEPS), "--seed", "1")
            evaluate(f"{split}{way}", encoder, *drawn, "--dtype", DTYPE, *words)
        evaluate(f"{split}-reconstructed", encoder, "--reconstruct", source, "--num-images", number)


def draw_things(encoder: str, data: str) -> None:
    """The same things in all styles, drawn beside the real ones; what was never seen is framed."""
    rows = {split: load_dataset(data, split=split) for split in SPLITS}
    styles = rows["train"].features["style"].names
    real = {
        (thing, style): (split, number)
        for split, of in rows.items()
        for number, (thing, style) in enumerate(zip(of["thing"], of["style"]))
    }
    places = [[real[thing, style] for style in range(len(styles))] for thing in THINGS]
    pipe = load_pipeline(FOLDER, text_encoder=encoder)
    pipe.set_progress_bar_config(disable=True)
    captions = [rows[split][number]["caption"] for row in places for split, number in row]
    generators = [torch.Generator().manual_seed(i) for i in range(len(captions))]
    images = pipe(captions, num_inference_steps=STEPS, generator=generators).images
    groups = {
        "real drawings": [[rows[split][number]["image"] for split, number in row] for row in places],
        f"drawn, T = {STEPS}": [images[i : i + len(styles)] for i in range(0, len(images), len(styles))],
    }
    unseen = [(i, j) for i, row in enumerate(places) for j, (split, _) in enumerate(row) if split != "train"]
    names = [thing.replace("-", " ") for thing in THINGS]
    plot_samples(groups, names, FOLDER / "samples.png", [style.replace("-", "\n", 1) for style in styles], unseen)


def keep_training(run: Path) -> None:
    """What the pipeline's folder tells of its training."""
    (FOLDER / "training").mkdir(exist_ok=True)
    history = History.read(run / "autonat" / "history.jsonl")
    shutil.copy(run / "autonat" / "history.jsonl", FOLDER / "training" / "history.jsonl")
    write_json(FOLDER / "training" / "training.json", {
        "steps": history[-1]["step"], "batch": 256, "seconds": wall_seconds(history), "hardware": hardware(),
        "versions": versions("torch", "diffusers", "transformers", "accelerate"),
    })  # fmt: skip
    draw_training(history, FOLDER / "training.png", "U-ViT of icons")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of training/icons.sh")
    parser.add_argument("--text-encoder", help=f"folder of {ENCODER}, with which the pipeline was trained")
    parts = ["tokenizer", "judges", "pipeline"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    run, encoder = args.run.resolve(), args.text_encoder and str(Path(args.text_encoder).resolve())
    if "pipeline" in args.only and not encoder:
        parser.error("the pipeline is evaluated with its --text-encoder.")
    data = str(run / "data")
    os.chdir(Path(__file__).parent)  # so that reports name folders as the Hub does
    if "tokenizer" in args.only:
        make_tokenizer(run)
    if "judges" in args.only:
        make_judges(run, data)
    if "pipeline" in args.only:
        make_pipeline(run, encoder)
        keep_training(run)
        evaluate_all(run, encoder, data)
        draw_things(encoder, data)
    for folder, card in icons_texts.CARDS.items():
        if folder.exists():
            save_card(folder, make_card(*card()))


if __name__ == "__main__":
    main()
