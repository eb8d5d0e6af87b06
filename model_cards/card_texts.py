"""The sections of the shipped cards, written from what a run has recorded and what lies in the shipped folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.cards import PAPERS, code_block, escape, table, usage
from diffusers_autonat.cards.sections import LIBRARY
from diffusers_autonat.metrics.per_class import RECOGNISED


DATASETS = ["zalando-datasets/fashion_mnist"]
CLONE = Path("model_cards")  # in a clone of the repository
JUDGE = CLONE / "fashion-mnist-classifier"
# A folder is laid out as its repository on the Hub, where a link that leads out of it would be dead: other files are named.
REPOSITORY = "of the package's repository"
PATHS = "Paths are those in a clone of the package's repository; on the Hub a repository's id takes their place."
CLASSIFIER_METADATA = ModelCardData(
    library_name="transformers", license="apache-2.0", pipeline_tag="image-classification", datasets=DATASETS,
    tags=["fashion-mnist", "evaluation"],
)  # fmt: skip


@dataclass(frozen=True)
class Generator:
    """A shipped pipeline and the parts of the run it comes from, the last of which holds it."""

    tag: str
    title: str
    transformer: str
    grid: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (f"{self.tag}-first", self.tag)

    @property
    def folder(self) -> Path:
        return Path(f"{self.tag}-fashion-mnist")

    @property
    def name(self) -> str:
        """As code on a card loads it."""
        return (CLONE / self.folder).as_posix()


AUTONAT = Generator("autonat", "AutoNAT", "a U-ViT", "grid.json")
ENAT = Generator("enat", "ENAT", "an ENAT transformer", "enat-grid.json")


@dataclass(frozen=True)
class Classifier:
    """A shipped classifier and the part of the run it comes from."""

    folder: Path
    part: str
    title: str
    use: str
    settings: str


FIRST = Classifier(
    Path("fashion-mnist-classifier"),
    "judge",
    "Fashion-MNIST classifier",
    f"It is the\njudge and the feature extractor of the Fashion-MNIST models of\n{LIBRARY}, and took no part in their training.",
    "",
)
SECOND = Classifier(
    Path("fashion-mnist-second-classifier"),
    "second-judge",
    "A second Fashion-MNIST classifier",
    f"It is the\nsecond judge of the Fashion-MNIST models of {LIBRARY}: of other width, depth and seed than the\n"
    f"first (`{JUDGE}` {REPOSITORY}), it took no part in their training nor in any search, and says whether what a search gained is more than the first\n"
    "one's liking.",
    "widths 64 and 96, depths 1 and 2, ",
)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def classifier(shipped: Classifier, result: dict[str, Any], hardware: str) -> list[str]:
    """All sections of a judge's card; `result` is its training.json."""
    name = CLONE / shipped.folder
    return [
        f"# {shipped.title}",
        f"A RegNet of {result['parameters']:,} parameters that recognises {result['test_accuracy']:.2%} of the 10,000 "
        f"Fashion-MNIST test images. {shipped.use}",
        code_block(
            "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
            f'processor = AutoImageProcessor.from_pretrained("{name}", backend="pil")  # grey images, enlarged\n'
            f'model = AutoModelForImageClassification.from_pretrained("{name}")'
        ),
        f"Trained on the 60,000 training images by `accelerate launch training/train_classifier.py` ({shipped.settings}"
        f"{result['epochs']} epochs, seed {result['seed']},\n{result['wall_time_s'] / 60:.0f} minutes on {hardware}, a machine shared "
        "with other runs), with shifts of up to two pixels and label smoothing\n0.05. "
        "[fashion-mnist-test.npz](fashion-mnist-test.npz) holds its features' statistics over the 10,000 test images; a distance\n"
        "on these features is not FID.",
        code_block(
            f"diffusers-autonat evaluate {AUTONAT.name} --reference {name}/fashion-mnist-test.npz \\\n"
            f"    --feature-extractor {name} --metrics fid,class --num-images 1000 --output report.json",
            "bash",
        ),
        PATHS,
    ]


def introduction(model: Generator, pipe: AutoNATPipeline, reports: dict[str, dict], tuned: dict[int, dict]) -> str:
    """What it is, and what its searched strategies gain and cost (`reports` and `tuned` as of `quality`)."""
    config, tokenizer = pipe.transformer.config, pipe.vqvae.num_parameters() / 1e6
    return (
        f"# {model.title} on Fashion-MNIST\n\n"
        f"A small class-conditional masked-token model ({PAPERS[type(pipe.transformer).__name__]}): a VQ\n"
        f"tokenizer (28 x 28 grey images to {config.sample_size} x {config.sample_size} tokens of a {config.codebook_size}-entry "
        f"codebook, {tokenizer:.2f}M parameters) and\n{model.transformer} of {pipe.transformer.num_parameters():,} parameters, "
        f"both trained by the scripts of\n{LIBRARY} on the 60,000 training images. It is there to see, test and\n"
        f"search with, not to compete.\n\n{_gains(reports, tuned)}"
    )


def _gains(reports: dict[str, dict], tuned: dict[int, dict]) -> str:
    rows = []
    for name in reports:
        if heuristic := reports.get(f"{name}-heuristic"):
            found, before = reports[name]["values"], heuristic["values"]
            ratio = found["frechet_distance"] / before["frechet_distance"]
            (distance, recognised), (old_distance, old_recognised) = _values(found), _values(before)
            tuned_to = f"{old_distance} ({tuned[int(name[1:])]['tuned']})"
            rows.append((name[1:], distance, tuned_to, f"{ratio:.2f}", recognised, old_recognised))
    floor, floor_recognised = _values(reports["reconstructions"]["values"])
    count = reports["reconstructions"]["images"]["num_images"]
    parameters = "re-masking noise lambda and guidance k"
    if any("tau1" in one["tuned"] for one in tuned.values()):
        parameters = f"sampling temperature tau1, {parameters}"
    return "\n".join([
        f"Its strategies are searched. Here they stand against the paper's heuristic, with its {parameters}\n"
        f"(`docs/symbols.md` {REPOSITORY}) tuned by a grid for each number of steps T; {count:,} images each. *Recognised* is the\n"
        "share that a classifier takes for what was asked for ([quality](#quality)).\n",
        table(["T", "distance, searched", "tuned heuristic", "ratio", "recognised, searched", "tuned heuristic"], rows),
        f"\nThe tokenizer's reconstructions of real test images have {floor} and {floor_recognised}. Distances under [strategies](#strategies) are of another\n"
        "draw of as many images, the search's.",
    ])  # fmt: skip


def how_to_use(model: Generator) -> str:
    call = (
        'images = pipe(["Sneaker", "Bag"], num_inference_steps=8, generator=torch.Generator().manual_seed(0)).images'
    )
    return f"{usage(f'./{model.name}', call, imports='import torch')}\n\n{PATHS}"


def samples(model: Generator) -> str:
    return (
        "![of each class two test images, and five images drawn from the same noise with T = 4 and with T = 8](samples.png)\n\n"
        "On the left the first two test images of each class; then the first five images that are drawn of it, of noise of their own\n"
        "each, the same for both numbers of steps. None is chosen."
    )


def strategies(chosen: list[dict], origins: dict[str, dict], tuned: dict[int, dict]) -> str:
    """
    Where each stored strategy comes from.

    Args:
        chosen: The grid's row of the heuristic of each number of steps.
        origins: Of found strategies by number of steps, as a search writes them beside the scheduler.
        tuned: What `search/experiments.py baseline` has found for the same numbers of steps, with the `stored_value` of the
            strategy on the same images.
    """
    lines, before = [], 0
    for row in chosen:
        steps = row["steps"]
        if str(steps) in origins:
            origin, baseline = origins[str(steps)], tuned[steps]
            search = (
                f"`search/search_generation.py` ({origin['search']['num_trials']} trials of "
                f"{origin['search']['num_images']:,} images, sampler {origin['sampler']})"
            )
            # A start that has won came from the strategy of fewer steps.
            found = f"that of T = {before} as a curve, which {search} did not improve"
            if not origin["trial"].startswith("start"):
                found = f"found by {search}"
            before = steps
            lines.append(
                f"- T = {steps}: {found}: distance {baseline['stored_value']:.3f} "
                f"on {origin['num_images']:,} images of fresh noise, against {baseline['value']:.3f} of the heuristic with "
                f"{baseline['tuned']} from a grid, on the same noise ([search.json](scheduler/search.json) says how it was found, and "
                f"{origin['value']:.3f} on another machine, whose rounding gives other images)."
            )
        else:
            lines.append(
                f"- T = {steps}: the paper's heuristic with lambda {row['remasking_temperature']:g} and k "
                f"{row['guidance_scale']:g}, the most recognised one of the grid below among those whose distance is "
                "within 10 % of the grid's best."
            )
    return "## Strategies\n\n" + "\n".join(lines)


def quality(model: Generator, reports: dict[str, dict], grid: dict[str, Any], tuned: dict[int, dict]) -> str:
    """
    Distance and recognition of everything that was measured.

    Args:
        reports: Of `diffusers-autonat evaluate` by name: `reconstructions`, `T8`, and `T8-heuristic` where the stored
            strategy of T = 8 was found by a search.
        grid: Of `benchmarks/heuristic_grid.py`. tuned: What `search/experiments.py baseline` has found, by numbers of steps.
    """
    rows, judge, images = [], grid["extractor"], reports["T8"]["images"]
    for name, report in reports.items():
        what = "reconstructions of test images"
        if name != "reconstructions":
            steps, _, of_heuristic = name.partition("-")
            kind = "found strategy" if f"{name}-heuristic" in reports else "heuristic"
            if of_heuristic:
                kind = f"heuristic, {tuned[int(steps[1:])]['tuned']}"
            what = f"generated, {steps.replace('T', 'T = ')}, {kind}"
        rows.append((what, *_values(report["values"]), f"[{name}.json](evaluation/{name}.json)"))
    real, reconstructed = (grid[f"{kind}_test_images"]["class_consistency"] for kind in ("real", "reconstructed"))
    return "\n\n".join([
        "## Quality",
        f"Distances are Fréchet distances on the {judge['num_features']} features of "
        f"`{JUDGE}` {REPOSITORY}\n"
        f"(weights {judge['weights_hash']}), which is no Inception network: they are **not** FID and compare with nothing "
        'measured\nelsewhere. "Recognised" is the share of images that this classifier takes for the class that was asked for. '
        f"Reference:\nthe 10,000 test images (hash {reports['T8']['reference']['hash']}).",
        table([f"images (N = {images['num_images']:,})", "distance", "recognised", "report"], rows),
        f"Generated with balanced labels, seed {images['seed']}, {reports['T8']['pipeline']['dtype']}. Of all 10,000 test images, prepared as in every report, the\nclassifier recognises "
        f"{real:.1%}, of their reconstructions {reconstructed:.1%}. `diffusers-autonat evaluate` makes every report\nagain:",
        code_block(
            f"diffusers-autonat evaluate {model.name} --num-inference-steps 8 --num-images {images['num_images']} "
            f"--seed {images['seed']} \\\n    --dtype {reports['T8']['pipeline']['dtype']} --metrics fid,class,per_class "
            f"--feature-extractor {JUDGE} \\\n    --reference {JUDGE}/fashion-mnist-test.npz --output report.json",
            "bash",
        ),
        *(_tuning(model, tuned) if tuned else [
            f"The paper's heuristic, lambda and k from a grid (N = {grid['num_images']:,}, seed {grid['seed']}; "
            "`benchmarks/heuristic_grid.py`, [grid.json](evaluation/grid.json)):",
            _grid_table(grid),
        ]),
        "Measured on " + ", ".join([grid["hardware"], *(f"{name} {one}" for name, one in grid["versions"].items())]) + ".",
    ])  # fmt: skip


def by_class(reports: dict[str, dict]) -> str:
    """What the classifier recognises of each class: of reconstructions, and of images by the stored strategies."""
    shown = {name: report for name, report in reports.items() if not name.endswith("-heuristic")}
    columns = [name.replace("T", "T = ") if name.startswith("T") else name for name in shown]
    classes = [name for name in reports["reconstructions"]["values"] if name.startswith(f"{RECOGNISED}: ")]
    rows = [
        (escape(name.partition(": ")[2]), *(f"{report['values'][name]:.1%}" for report in shown.values()))
        for name in classes
    ]
    return f"### By class\n\nRecognised of each class, of the same images:\n\n{table(['', *columns], rows)}"


def _values(values: dict[str, float]) -> tuple[str, str]:
    return f"{values['frechet_distance']:.3f}", f"{values['class_consistency']:.1%}"


def _tuning(model: Generator, tuned: dict[int, dict]) -> list[str]:
    files = " and ".join(f"`baseline-{model.folder}-T{steps}.json`" for steps in tuned)
    return [
        f"Each heuristic is the best of a grid by 1,000 images of other noise ({files}\nin `search/results/` {REPOSITORY})."
    ]


def _grid_table(grid: dict[str, Any]) -> str:
    columns = {"T": "steps", "lambda": "remasking_temperature", "k": "guidance_scale"}
    if grid["heuristic"] == "enat":
        columns = {"T": "steps", "tau1": "sampling_temperature", **columns}
    rows = [[*(f"{row[name]:g}" for name in columns.values()), *_values(row)] for row in grid["grid"]]
    return table([*columns, "distance", "recognised"], rows)


def comparison(reports: dict[tuple[str, int], dict], speeds: dict[str, Any], seen: int, other_parameters: int) -> str:
    """
    ENAT beside AutoNAT, both with their stored strategies.

    Args:
        reports: By tag and number of steps, of equal numbers of images.
        speeds: Of `benchmarks/pipelines.py`, for batches of 1 and 64.
        seen: Images that either transformer was trained on. other_parameters: Of AutoNAT's transformer.
    """
    measured = {(row["pipeline"], row["steps"], row["batch_size"]): row for row in speeds["rows"]}
    rows, verdict = [], ["ENAT against AutoNAT:"]
    for steps in (4, 8):
        for model in (AUTONAT, ENAT):
            small, large = (measured[model.folder.name, steps, size] for size in (1, 64))
            rows.append([
                str(steps), model.title, *_values(reports[model.tag, steps]["values"]), f"{small['macs'] / 1e6:,.0f} M",
                f"{small['images_per_second']:.1f}", f"{large['images_per_second']:.1f}",
            ])  # fmt: skip
        macs, speed = (
            measured[ENAT.folder.name, steps, size][name] / measured[AUTONAT.folder.name, steps, size][name]
            for size, name in ((1, "macs"), (64, "images_per_second"))
        )
        enat, autonat = (reports[tag, steps]["values"]["frechet_distance"] for tag in ("enat", "autonat"))
        verdict.append(
            f"T = {steps}: {macs:.2f} of the multiply-accumulates, {speed:.2f} of the images/s at batch 64, "
            f"{enat / autonat:.2f} of the distance."
        )
    head = ["T", "model", "distance", "recognised", "multiply-accumulates", "images/s, batch 1", "images/s, batch 64"]
    return "\n\n".join([
        "## Beside AutoNAT",
        f"The same tokenizer, and a transformer that has seen as many images ({seen:,}) and has {other_parameters:,} parameters:\n"
        f"`{AUTONAT.name}` {REPOSITORY}. Both use the strategies that are "
        "stored.\nMultiply-accumulates are those of one image, decoder included;\n"
        f"speeds are medians of {len(speeds['rows'][0]['rounds'])} interleaved rounds (`benchmarks/pipelines.py`,\n"
        f"`benchmarks/results/pipelines.json` {REPOSITORY}, {speeds['hardware']}).",
        table(head, rows),
        " ".join(verdict),
    ])  # fmt: skip


def training(tokenizer: dict[str, Any], transformer: dict[str, Any], history: list[dict]) -> str:
    """
    What was trained, and for how long.

    Args:
        tokenizer: `training/tokenizer.json` of the folder: perceptual network and parts.
        transformer: `training/transformer.json`: parts, batch, recipe, hardware.
        history: `training/history.jsonl`, of the transformer's parts one after another.
    """
    last, batch, perceptual = history[-1], transformer["batch"], tokenizer["perceptual"]
    steps = [f"{part:,}" for part in transformer["steps"]]
    rows = [
        ("perceptual network", f"RegNet of {perceptual['parameters']:,} parameters, {perceptual['epochs']} epochs, test accuracy "
         f"{perceptual['test_accuracy']:.1%}", minutes(perceptual["wall_time_s"])),
        ("tokenizer", f"{' + '.join(f'{part:,}' for part in tokenizer['steps'])} steps of {tokenizer['batch']} images: with 256 "
         "codes, with 512, then twice with more weight on the perceptual loss; adversarial loss in all", minutes(tokenizer["seconds"])),
        ("transformer", f"{' + '.join(steps)} steps of {batch} images ({sum(transformer['steps']) * batch:,} in all), "
         f"{transformer['recipe']}", minutes(wall_seconds(history))),
    ]  # fmt: skip
    notes = " ".join(filter(None, (tokenizer["notes"], transformer["notes"])))
    return "\n\n".join([
        "## Training",
        f"`bash training/fashion_mnist.sh` has every command. On {transformer['hardware']}, a machine shared with other runs, so that\n"
        "the times are upper bounds:",
        table(["part", "what was run", "time"], rows),
        f"{notes + ' ' if notes else ''}Loss and masked-token accuracy at the end: {last['loss']:.2f} and "
        f"{last['token_accuracy']:.1%} (low is normal: many codes fit a place).",
        "![loss and token accuracy of the transformer](training.png)",
        *([f"At step {steps[0]} the second cosine of the learning rate begins."] if steps[1:] else []),
        "![test of the tokenizer: originals above, reconstructions below](reconstructions.png)",
        f"Weights are stored in half precision and loaded in float32; against the float32 weights {transformer['equal_tokens']:.1%} "
        "of the tokens of 100\nimages drawn with equal noise are the same.",
    ])  # fmt: skip


def wall_seconds(history: list[dict]) -> float:
    """Seconds of all parts of a run; the clock starts anew where it was resumed."""
    total = last = 0.0
    for row in history:
        total += row["seconds"] - last if row["seconds"] >= last else row["seconds"]
        last = row["seconds"]
    return total


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def limits(num_tokens: int, reports: dict[str, dict]) -> str:
    shares = {name: share for name, share in reports["T8"]["values"].items() if name.startswith(f"{RECOGNISED}: ")}
    worst = min(shares, key=shares.__getitem__)
    return (
        "## Limits\n\n"
        f"- Fine print and checks are blurred by a tokenizer of {num_tokens} tokens. Least recognised, at T = 8: "
        f"{worst.partition(': ')[2]}, {shares[worst]:.1%}.\n- Fashion-MNIST has ten classes and one view of each; the model knows nothing else.\n"
        "- The tokenizer was trained against features of a network trained on the same images (another one than the judge)."
    )
