"""The card of a freshly trained pipeline: how it was made, its curves and its samples, as its Hub repository shows them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards import (
    PAPERS,
    code_block,
    escape,
    hub_id,
    license_section,
    make_card,
    metadata,
    result,
    save_card,
    shell_command,
    shown_folder,
    shown_name,
    table,
    usage,
)
from ..cards.sections import LIBRARY
from ..command_line import command_words
from ..plots import plot_history
from ..provenance import hardware, versions
from ..strategies import TrainingStrategy
from .conditions import ClassCondition
from .loop import History, save_picture
from .lora import adapter_size
from .uploads import model_name, model_source


if TYPE_CHECKING:
    from ..pipelines.pipeline_autonat import AutoNATPipeline
    from .conditions import Condition
    from .reward_guard import RewardGuard
    from .tokens import TokenSetInfo


def save_model_card(
    folder: Path,
    pipeline: Any,
    condition: Condition,
    args: Any,
    info: TokenSetInfo,
    strategy: TrainingStrategy,
    num_processes: int,
) -> None:
    """
    Write README.md, training.png and samples.png beside the pipeline, or the adapter, in `folder`.

    Args:
        args: Of `train_autonat.py`, whose command line (`sys.argv`) is shown without this machine's folders.
        strategy: p(r). num_processes: That have trained.
    """
    output_dir = Path(args.output_dir)
    history = History.read(output_dir / "history.jsonl")
    plot_history(history, folder / "training.png", {"loss": "loss", "token_accuracy": "masked-token accuracy"})
    shutil.copy(max((output_dir / "samples").glob("step-*.png")), folder / "samples.png")
    name, transformer = model_name(args), pipeline.transformer
    call = (
        f"image = pipe({condition.example(pipeline)!r}, num_inference_steps={max(args.num_inference_steps)}).images[0]"
    )
    what = f"A {condition.tag} masked-token transformer ({PAPERS[type(transformer).__name__]}) of"
    tags = [args.transformer, condition.tag] + ["lora"] * bool(args.rank)
    base, last = args.pretrained_model_name_or_path, history[-1]
    measured = {
        "loss": (last["loss"], "loss in nats per token, training images, end of training"),
        "accuracy": (last["token_accuracy"], "masked-token accuracy, training images, end of training"),
    }
    data = metadata(
        args.license, tags, dataset_ids(args.dataset_name), condition.pipeline_tag,
        base_model=base, base_model_relation="adapter" if args.rank else "finetune", name=name,
        results=[result(kind, value, data_name(args), called, condition.pipeline_tag) for kind, (value, called) in measured.items()],
    )  # fmt: skip
    load, parameters = model_source(args, "lora" if args.rank else "pipeline"), transformer.num_parameters()
    if args.rank:
        call = f"pipe.load_lora_weights({json.dumps(load, ensure_ascii=False)})\n{call}"
        load = hub_id(base) or shown_folder(base)
        what = (
            f"An adapter (LoRA of rank {args.rank}, {adapter_size(pipeline):,} parameters) to {escape(shown_name(base))}, "
            f"a {what[2:]}"
        )
        parameters -= adapter_size(pipeline)
    text = make_card(
        data,
        [
            f"# {name}",
            f"{what} {parameters:,} parameters on a {info.sample_size} x {info.sample_size} grid of {info.codebook_size} "
            f"codes, trained with {LIBRARY}.",
            usage(load, call, type(pipeline).__name__),
            "![samples](samples.png)",
            condition.card_section(pipeline),
            _training(args, info, strategy, history, num_processes),
            "![training curves](training.png)",
            license_section(args.license),
        ],
    )
    save_card(folder, text)


def save_policy_card(folder: Path, pipeline: AutoNATPipeline, args: Any, guard: RewardGuard, processes: int) -> None:
    """
    Write README.md, training.png and samples.png beside a pipeline with a policy that was trained.

    Args:
        args: Of `train_policy.py`, whose command line (`sys.argv`) is shown without this machine's folders.
        guard: What was validated. processes: That have trained.
    """
    condition = ClassCondition(pipeline.transformer.config.num_classes, 0.0, pipeline.id2label)
    save_picture(condition.samples(pipeline, args.seed), folder / "samples.png")
    history = History.read(Path(args.output_dir, "history.jsonl"))
    rows, panels = guard.validations, {"distance": "distance", "class_consistency": "class consistency"}
    panels["second_distance"] = "distance, second extractor"
    plot_history(rows, folder / "training.png", {key: panel for key, panel in panels.items() if key in rows[0]})
    base = args.pretrained_model_name_or_path
    name = model_name(args)
    steps, best = pipeline.policy.config.num_inference_steps, guard.best_values
    values = [key for key in best if key != "step"]
    measured_on = f"N = {args.num_validation_images:,}, by which the policy was chosen"
    data = metadata(
        args.license, [condition.tag, "policy"], pipeline_tag=condition.pipeline_tag, base_model=base,
        base_model_relation="finetune", name=name,
        results=[result(key, best[key], Path(args.reference).name, f"{key.replace('_', ' ')}, {measured_on}") for key in values],
    )  # fmt: skip
    base = shown_name(base)
    compared = table(
        ["policy", *(key.replace("_", " ") for key in values)],
        [
            [label, *(f"{row[key]:.4f}" for key in values)]
            for label, row in (("at the start", rows[0]), (f"saved, update {best['step']}", best), ("last", rows[-1]))
        ],
    )
    settings = {
        "command": launched(),
        "updates x images": f"{rows[-1]['step']:,} x {args.images_per_update:,}",
        "wall time": f"{sum(row['update_seconds'] for row in history) / 60:.0f} minutes of updates, on {hardware()}, "
        f"{processes} process(es)",
        "versions": shown_versions("torch", "diffusers", "accelerate"),
        "seed": str(args.seed),
    }
    text = make_card(
        data,
        [
            f"# {name}",
            f"{escape(base)} with a policy of {pipeline.policy.num_parameters():,} parameters (AdaNAT, "
            f"[arXiv:2409.00342](https://huggingface.co/papers/2409.00342)) that sets the parameters of each of {steps} steps "
            f"image by image, trained with {LIBRARY}. All else is as it was.",
            usage(
                model_source(args, "pipeline"),
                f"image = pipe({condition.example(pipeline)!r}).images[0]",
                type(pipeline).__name__,
            ),
            "![samples](samples.png)",
            condition.card_section(pipeline),
            "## Training\n\n" + table(["", ""], settings.items()),
            f"Measured on the same {args.num_validation_images:,} images of noise each time. The policy that is saved was chosen "
            f"by these numbers, which flatters it: measure it on other noise.\n\n{compared}",
            f"The training was stopped: {guard.stopped}." if guard.stopped else "",
            "![validations](training.png)",
            license_section(args.license),
        ],
    )
    save_card(folder, text)


def save_tokenizer_card(folder: Path, vqvae: Any, args: Any) -> None:
    """
    Write README.md, training.png and samples.png beside a tokenizer that was trained.

    Args:
        args: Of `train_vqgan.py`, whose command line (`sys.argv`) is shown without this machine's folders.
    """
    output_dir, name, config = Path(args.output_dir), model_name(args), vqvae.config
    history = History.read(output_dir / "history.jsonl")
    last = history[-1]
    panels = {"l1": "absolute error of pixels", "codes_used": "codes in use", "perplexity": "perplexity of the codes"}
    plot_history(history, folder / "training.png", panels)
    shutil.copy(max((output_dir / "samples").glob("step-*.png")), folder / "samples.png")
    measured = {
        "l1": "absolute error of pixels in [0, 1], training images, end of training",
        "codes_used": "codes in use, end of training",
    }
    data = metadata(
        args.license, ["vqgan", "image-tokenizer"], dataset_ids(args.dataset_name), "image-feature-extraction",
        base_model=args.pretrained_model_name_or_path, base_model_relation="finetune", name=name,
        results=[result(key, last[key], data_name(args), called, "image-feature-extraction") for key, called in measured.items()],
    )  # fmt: skip
    side = 2 ** (len(config.block_out_channels) - 1)
    settings = {
        "command": launched(),
        "steps": f"{int(last['step']):,}",
        "at the end": f"absolute error {last['l1']:.4f}, {last['codes_used']:.0f} of {config.num_vq_embeddings} codes in use",
        "machine": hardware(),
        "versions": shown_versions("torch", "diffusers", "accelerate"),
        "seed": str(args.seed),
    }
    loaded = json.dumps(model_source(args, "vqvae"), ensure_ascii=False)
    text = make_card(
        data,
        [
            f"# {name}",
            f"A VQ tokenizer of {vqvae.num_parameters():,} parameters: squares of {side} x {side} pixels become one of "
            f"{config.num_vq_embeddings} codes each. Trained with {LIBRARY}, whose transformers draw images of them.",
            code_block(
                f"from diffusers import VQModel\n\nvqvae = VQModel.from_pretrained({loaded})  # images in [0, 1]"
            ),
            "![images above, reconstructions below](samples.png)",
            "## Training\n\n" + table(["", ""], settings.items()),
            "![training curves](training.png)",
            license_section(args.license),
        ],
    )
    save_card(folder, text)


def launched() -> str:
    """The command line of what runs, as a card shows it: without this machine's folders."""
    return f"`{shell_command(command_words())}`"


def shown_versions(*packages: str) -> str:
    """Installed versions as a card shows them."""
    return ", ".join(f"{package} {number}" for package, number in versions(*packages).items())


def dataset_ids(name: str | None) -> list[str]:
    """The data set's id on the Hub; nothing where it is a folder of this machine."""
    return [name] if name and not Path(name).is_absolute() and not Path(name).exists() else []


def data_name(args: Any) -> str:
    """What cards call the images: their id on the Hub, or words, as a folder's name may tell of this machine."""
    return args.dataset_name if dataset_ids(args.dataset_name) else "images of who trained it"


def _training(args: Any, info: TokenSetInfo, strategy: TrainingStrategy, history: list[dict], processes: int) -> str:
    last, batch = history[-1], args.train_batch_size * args.gradient_accumulation_steps * processes
    steps = int(last["step"])
    speeds = sorted(row["images_per_second"] for row in history)
    speed = speeds[len(speeds) // 2]
    rows = {
        "command": launched(),
        "images": f"{info.num_images:,} ({info.num_unreadable} unreadable), {info.resolution} px, "
        f"flips {'yes' if info.flips else 'no'}",
        "steps x batch": f"{steps:,} x {batch} = {steps * batch:,} images seen",
        "mask ratios p(r)": str(strategy.to_dict()),
        "loss, token accuracy at the end": f"{last['loss']:.3f}, {last['token_accuracy']:.1%}",
        "wall time": f"{steps * batch / speed / 60:.0f} minutes, {speed:.0f} images/s, on {hardware()}, {processes} process(es)",
        "versions": shown_versions("torch", "diffusers", "accelerate"),
        "seed": str(args.seed),
    }
    return "## Training\n\n" + table(["", ""], rows.items())
