#!/usr/bin/env python
"""Turn a finished run of `training/fashion_mnist.sh` into the folders shipped here: weights in half precision, pictures, and
cards whose every figure is read from what the run has recorded.

    python model_cards/make_cards.py outputs/fashion-mnist --data /usr/share/datasets/fashion-mnist

A strategy that a search has found for exactly these weights (`search/results/FOLDER-T8`) is stored; where there is none, the
heuristic: the most recognised one of the grid among those whose distance is within 10 % of the grid's best, as recognition
must not be bought with sameness. What a card reports is measured anew, with `diffusers-autonat evaluate` on other noise.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from card_texts import CLASSIFIER, COMPARISON, GENERATOR
from diffusers.utils import make_image_grid
from PIL import Image

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler
from diffusers_autonat.cli import main as diffusers_autonat
from diffusers_autonat.provenance import pipeline_hash
from diffusers_autonat.search.report import PROVENANCE, save_strategy
from diffusers_autonat.training.loop import History
from diffusers_autonat.training.model_card import plot_history


JUDGE = Path("fashion-mnist-classifier")
REFERENCE = JUDGE / "fashion-mnist-test.npz"
SEARCHES, SPEEDS = Path("../search/results"), Path("../benchmarks/results/pipelines.json")
TOKENIZER_PARTS = ("vqgan-256", "vqgan-512", "vqgan-long", "vqgan")
ENLARGE = 3


@dataclass(frozen=True)
class Generator:
    """A shipped pipeline and the parts of the run it comes from, the last of which holds it."""

    tag: str
    title: str
    paper: str
    transformer: str
    parts: tuple[str, ...]
    grid: str

    @property
    def folder(self) -> Path:
        return Path(f"{self.tag}-fashion-mnist")


AUTONAT = Generator(
    "autonat", "AutoNAT", "AutoNAT, [arXiv:2406.05478](https://huggingface.co/papers/2406.05478)", "a U-ViT",
    ("autonat-512", "autonat"), "grid.json",
)  # fmt: skip
ENAT = Generator(
    "enat", "ENAT", "ENAT, [arXiv:2411.06959](https://huggingface.co/papers/2411.06959)", "an ENAT transformer",
    ("enat",), "enat-grid.json",
)  # fmt: skip


def read(path: Path) -> dict:
    return json.loads(path.read_text())


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


def strategy_of(grid: dict, row: dict) -> GenerationStrategy:
    names = ("steps", "sampling_temperature", "remasking_temperature", "guidance_scale")
    return getattr(GenerationStrategy, grid["heuristic"])(*(row[name] for name in names if name in row))


def tokens(pipeline: AutoNATPipeline, steps: int) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(100)]
    return pipeline(list(range(10)) * 10, num_inference_steps=steps, generator=generator, output_type="latent").images


def make_classifier(run: Path, data: str, hardware: str) -> None:
    result = read(run / "judge" / "training.json")
    JUDGE.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "training.json"):
        shutil.copy(run / "judge" / name, JUDGE / name)
    (JUDGE / "README.md").write_text(
        CLASSIFIER.format(**result, minutes=result["wall_time_s"] / 60, hardware=hardware)
    )
    extractor = ["--feature-extractor", str(JUDGE)]
    diffusers_autonat(["reference", f"{data}:test", *extractor, "--output", str(REFERENCE)])


def save_pipeline(model: Generator, run: Path, chosen: list[GenerationStrategy]) -> tuple[AutoNATPipeline, float]:
    """The shipped folder, with found strategies where there are some, and the share of tokens that half precision keeps."""
    pipe = AutoNATPipeline.from_pretrained(run / model.parts[-1] / "pipeline")
    pipe.scheduler = NATScheduler(pipe.scheduler.config.mask_token_id, [strategy.to_dict() for strategy in chosen])
    steps = chosen[-1].num_inference_steps
    exact = tokens(pipe, steps)
    pipe.to(dtype=torch.float16)
    shutil.rmtree(model.folder, ignore_errors=True)
    pipe.save_pretrained(model.folder)
    for config in model.folder.rglob("*.json"):  # where the run lay on this machine is nobody's business
        content = {key: value for key, value in read(config).items() if key != "_name_or_path"}
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    pipe = AutoNATPipeline.from_pretrained(model.folder)
    equal = (tokens(pipe, steps) == exact).float().mean().item()
    for strategy in chosen:
        steps, found = strategy.num_inference_steps, SEARCHES / f"{model.folder}-T{strategy.num_inference_steps}"
        if found.exists():
            origin = read(found / PROVENANCE)[str(steps)]
            if origin["pipeline"] != pipeline_hash(pipe):
                print(
                    f"{found} is of other weights (hash {origin['pipeline']}): the heuristic of T = {steps} is stored."
                )
                continue
            pipe.scheduler = NATScheduler.from_pretrained(model.folder, subfolder="scheduler")
            best = NATScheduler.from_pretrained(found).get_strategy(steps)
            save_strategy(model.folder / "scheduler", pipe.scheduler, best, origin)
    return AutoNATPipeline.from_pretrained(model.folder), equal


def searched_steps(model: Generator) -> set[int]:
    """The T whose stored strategy comes from a search."""
    provenance = model.folder / "scheduler" / PROVENANCE
    return {int(steps) for steps in read(provenance)} if provenance.exists() else set()


def describe_strategies(model: Generator, chosen: list[dict]) -> str:
    """Where each stored strategy comes from."""
    searched, lines = searched_steps(model), []
    for row in chosen:
        steps = row["steps"]
        if steps in searched:
            origin = read(model.folder / "scheduler" / PROVENANCE)[str(steps)]
            tuned = read(SEARCHES / f"baseline-T{steps}.json")
            assert tuned["pipeline"] == origin["pipeline"] and tuned["confirm_seed"] == origin["seed"]
            lines.append(
                f"- T = {steps}: found by `search/search_generation.py` ({origin['search']['num_trials']} trials of "
                f"{origin['search']['num_images']:,} images, sampler {origin['sampler']}): distance {origin['value']:.3f} "
                f"on {origin['num_images']:,} images of fresh noise, against {tuned['value']:.3f} of the heuristic with "
                f"{tuned['tuned']} from a grid, on the same noise (scheduler/{PROVENANCE} has the rest)."
            )
        else:
            lines.append(
                f"- T = {steps}: the paper's heuristic with lambda {row['remasking_temperature']:g} and k "
                f"{row['guidance_scale']:g}, the most recognised one of the grid below among those whose distance is "
                "within 10 % of the grid's best."
            )
    return "\n".join(lines)


def draw_pictures(model: Generator, run: Path, pipe: AutoNATPipeline, history: list[dict]) -> None:
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        list(range(10)), num_inference_steps=8, num_images_per_prompt=8, generator=torch.Generator().manual_seed(0)
    ).images
    images = [image.resize((image.width * ENLARGE, image.height * ENLARGE), 0) for image in images]
    make_image_grid(images, rows=10, cols=8).save(model.folder / "samples.png")
    picture = Image.open(max((run / "vqgan" / "samples").glob("step-*.png")))
    picture.resize((picture.width * ENLARGE, picture.height * ENLARGE), 0).save(model.folder / "reconstructions.png")
    plot_history(history, model.folder / "training.png", {"loss": "loss", "token_accuracy": "masked-token accuracy"})


def evaluate(model: Generator, report: str, *arguments: str) -> dict:
    """The values that `diffusers-autonat evaluate` writes to a report in the folder."""
    output = model.folder / "evaluation" / f"{report}.json"
    judge = ["--feature-extractor", str(JUDGE), "--reference", str(REFERENCE), "--metrics", "fid,class"]
    diffusers_autonat(["evaluate", str(model.folder), *judge, *arguments, "--output", str(output)])
    return read(output)["values"]


def evaluate_strategies(
    model: Generator, heuristics: list[GenerationStrategy], searched: set[int], *arguments: str
) -> list[str]:
    """Report on each stored strategy, and on the heuristic that a found one has replaced; rows of the card's table."""
    rows = []

    def report(name: str, strategy: str, *options: str) -> None:
        values = evaluate(model, name, *options, *arguments)
        rows.append(
            f"| generated, {name.split('-')[0].replace('T', 'T = ')}, {strategy} strategy | {values['frechet_distance']:.3f} "
            f"| {values['class_consistency']:.1%} | [{name}.json](evaluation/{name}.json) |"
        )

    for heuristic in heuristics:
        steps = heuristic.num_inference_steps
        report(f"T{steps}", "found" if steps in searched else "heuristic", "--num-inference-steps", str(steps))
        if steps in searched:
            file = model.folder / "evaluation" / f"T{steps}-heuristic-strategy.json"
            file.write_text(json.dumps(heuristic.to_dict(), indent=2) + "\n")
            report(f"T{steps}-heuristic", "heuristic", "--strategy", str(file))
    return rows


def joined_history(run: Path, parts: tuple[str, ...]) -> list[dict]:
    """One history of parts that follow each other: steps and seconds go on."""
    joined: list[dict] = []
    for part in parts:
        first = joined[-1]["step"] if joined else 0
        joined += [{**row, "step": row["step"] + first} for row in History.read(run / part / "history.jsonl")]
    return joined


def compare(report_images: int, seen: int) -> str:
    """ENAT beside AutoNAT, both with their heuristic: quality from the reports in both folders, cost and speed from the
    benchmark."""
    speeds = read(SPEEDS)
    rows, reports = [], {}
    for steps in (4, 8):
        for model in (AUTONAT, ENAT):
            heuristic = model.folder / "evaluation" / f"T{steps}-heuristic.json"
            report = read(heuristic if heuristic.exists() else heuristic.with_name(f"T{steps}.json"))
            if report["images"]["num_images"] != report_images:
                raise ValueError(
                    f"{model.folder} was reported with {report['images']['num_images']} images, not {report_images}."
                )
            small, large = (
                next(row for row in speeds["rows"]
                     if (row["pipeline"], row["steps"], row["batch_size"]) == (model.folder.name, steps, size))
                for size in (1, 64)
            )  # fmt: skip
            values = report["values"]
            reports[model.tag, steps] = {**values, "macs": small["macs"], "speed": large["images_per_second"]}
            rows.append(
                f"| {steps} | {model.title} | {values['frechet_distance']:.3f} | {values['class_consistency']:.1%} "
                f"| {small['macs'] / 1e6:,.0f} M | {small['images_per_second']:.1f} | {large['images_per_second']:.1f} |"
            )
    verdict = []
    for steps in (4, 8):
        autonat, enat = reports["autonat", steps], reports["enat", steps]
        verdict.append(
            f"T = {steps}: {enat['macs'] / autonat['macs']:.2f} of the multiply-accumulates, "
            f"{enat['speed'] / autonat['speed']:.2f} of the images/s at batch 64, "
            f"{enat['frechet_distance'] / autonat['frechet_distance']:.2f} of the distance."
        )
    return COMPARISON.format(
        other_seen=seen, hardware=speeds["hardware"], rounds=len(speeds["rows"][0]["rounds"]), rows="\n".join(rows),
        other_parameters=sum(
            p.numel() for p in AutoNATPipeline.from_pretrained(AUTONAT.folder).transformer.parameters()
        ),
        verdict="ENAT against AutoNAT: " + " ".join(verdict),
    )  # fmt: skip


def make_generator(model: Generator, run: Path, data: str, num_images: int, seed: int, notes: str) -> None:
    grid = read(run / model.grid)
    rows = grid["grid"]
    chosen = [choose(rows, steps) for steps in sorted({row["steps"] for row in rows})]
    heuristics = [strategy_of(grid, row) for row in chosen]
    pipe, equal_tokens = save_pipeline(model, run, heuristics)
    history = joined_history(run, model.parts)
    draw_pictures(model, run, pipe, history)
    reports = model.folder / "evaluation"
    reports.mkdir()
    shutil.copy(run / model.grid, reports / "grid.json")
    size = ["--num-images", str(num_images)]
    floor = evaluate(model, "reconstructions", "--reconstruct", f"{data}:test", *size)
    stored_rows = evaluate_strategies(model, heuristics, searched_steps(model), "--seed", str(seed), *size)

    tokenizer = [History.read(run / part / "history.jsonl") for part in TOKENIZER_PARTS]
    transformer = [History.read(run / part / "history.jsonl") for part in model.parts]
    perceptual = read(run / "perceptual" / "training.json")
    first = transformer[0][0]
    batch = round(first["images_per_second"] * first["seconds"] / first["step"])
    seen = history[-1]["step"] * batch
    with_tau1 = grid["heuristic"] == "enat"
    config = pipe.transformer.config
    card = GENERATOR.format(
        tag=model.tag, title=model.title, paper=model.paper, transformer=model.transformer, folder=model.folder,
        side=config.sample_size, num_tokens=config.sample_size**2, codes=config.codebook_size,
        tokenizer_parameters=sum(p.numel() for p in pipe.vqvae.parameters()) / 1e6,
        parameters=sum(p.numel() for p in pipe.transformer.parameters()), classes=", ".join(pipe.id2label.values()),
        strategies=describe_strategies(model, chosen),
        features=grid["extractor"]["num_features"], extractor_hash=grid["extractor"]["weights_hash"],
        reference_hash=grid["reference"]["hash"], num_images=grid["num_images"], seed=grid["seed"],
        real=grid["real_test_images"], reconstructed=grid["reconstructed_test_images"],
        floor=floor, report_images=num_images, report_seed=seed,
        stored_rows="\n".join(stored_rows),
        tau1_head=" tau1 |" if with_tau1 else "", tau1_rule="---|" if with_tau1 else "",
        grid_rows="\n".join(
            f"| {row['steps']} |{' %g |' % row['sampling_temperature'] if with_tau1 else ''} {row['remasking_temperature']:g} "
            f"| {row['guidance_scale']:g} | {row['frechet_distance']:.3f} | {row['class_consistency']:.1%} |"
            for row in rows
        ),
        evaluated_on=", ".join([grid["hardware"], *(f"{name} {number}" for name, number in grid["versions"].items())]),
        comparison=compare(num_images, seen) if model is ENAT else "",
        hardware=grid["hardware"], perceptual=perceptual, perceptual_minutes=perceptual["wall_time_s"] / 60,
        tokenizer_steps=" + ".join(f"{part[-1]['step']:,}" for part in tokenizer), tokenizer_batch=32,
        tokenizer_minutes=sum(map(wall_seconds, tokenizer)) / 60,
        transformer_steps=" + ".join(f"{part[-1]['step']:,}" for part in transformer), batch=batch, seen=seen,
        minutes=sum(map(wall_seconds, transformer)) / 60, loss=history[-1]["loss"],
        accuracy=history[-1]["token_accuracy"], equal_tokens=equal_tokens,
        jump=f"\nThe step at {transformer[0][-1]['step']:,} is where the tokens of the final tokenizer came in.\n" if transformer[1:] else "",
        notes=notes + " " if notes else "",
    )  # fmt: skip
    (model.folder / "README.md").write_text(card)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of training/fashion_mnist.sh")
    parser.add_argument("--data", required=True, help="folder of the IDX files")
    parser.add_argument(
        "--only", nargs="+", choices=["classifier", "autonat", "enat"], default=["classifier", "autonat", "enat"]
    )
    parser.add_argument("--num-images", type=int, default=5000, help="of each report")
    parser.add_argument("--seed", type=int, default=1, help="of each report; another than the grid's")
    parser.add_argument("--notes", default="", help="what a reader must know about this run, for the card")
    args = parser.parse_args()
    args.run, args.data = args.run.resolve(), str(Path(args.data).resolve())
    os.chdir(Path(__file__).parent)  # so that reports name folders as the Hub does
    if "classifier" in args.only:
        make_classifier(args.run, args.data, read(args.run / "grid.json")["hardware"])
    for model in (AUTONAT, ENAT):
        if model.tag in args.only:
            make_generator(model, args.run, args.data, args.num_images, args.seed, args.notes)


if __name__ == "__main__":
    main()
