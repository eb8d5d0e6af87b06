"""`diffusers-autonat evaluate`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..strategy_files import read_strategy
from .arguments import local_dataset, positive, read_reference


if TYPE_CHECKING:
    import torch

    from ..metrics import Evaluator, FeatureExtractor, Reference
    from ..pipelines.pipeline_autonat import AutoNATPipeline

DTYPES = ("float32", "bfloat16", "float16")
# What only generation takes, and the defaults.
GENERATION = {
    "num_inference_steps": None, "strategy": None, "guidance_scale": 1.0, "seed": 0, "label_policy": "balanced",
    "dtype": "float32",
}  # fmt: skip
PACKAGES = ("diffusers-autonat", "torch", "diffusers", "transformers", "torchmetrics")


def run(args: argparse.Namespace) -> None:
    """Generate images and measure them; or measure a tokenizer's reconstructions, make a reference, compare reports.

    The result is a JSON report and a table. A killed run continues with --resume and ends with the same number. Runs
    on several processes under `accelerate launch`.
    """
    if args.compare:
        return _compare(args.compare)
    try:
        from ..metrics import METRIC_NAMES
    except ImportError as error:
        raise ValueError(f"evaluate needs more packages: `pip install diffusers-autonat[eval]` ({error}).") from error
    _check(args, METRIC_NAMES)

    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    with _warnings(state.is_main_process) as messages:
        report = _run(args, state)
    if report is not None:
        report.setdefault("warnings", messages)
        if state.is_main_process:
            _write(args, report)
    state.destroy_process_group()


def _run(args: argparse.Namespace, state: Any) -> dict[str, Any] | None:
    """Make the reference, if there is to be one, and the report, if there is a pipeline; what is cheap comes first."""
    from ..metrics import MAX_ROWS, EvaluationCheckpoint, Evaluator, load_extractor, save_reference

    unfinished = EvaluationCheckpoint(_state_folder(args), {}).exists()
    if args.pipeline and not (args.resume and Path(args.output).exists()):  # that may be the finished report
        _refuse_to_overwrite(args, unfinished)
    extractor = load_extractor(args.feature_extractor, args.extractor_weights, args.images_per_call).to(state.device)
    pipe = None
    if args.pipeline:
        pipe = _load_pipeline(args.pipeline)
        strategy = read_strategy(args.strategy, args.num_inference_steps) if args.strategy else None
        pipe.scheduler.set_timesteps(args.num_inference_steps, strategy=strategy)
        if of_images_alone := [name for name in args.metrics if name in ("is", "class")]:
            Evaluator(pipe, extractor, None, of_images_alone)  # whether they fit, before a reference is measured
    reference, resolution = None, args.resolution or (pipe and _resolution(pipe))
    if args.reference:
        rows = min(args.num_images or 10_000, MAX_ROWS) if {"kid", "prdc"} & set(args.metrics) else 0
        reference = read_reference(args.reference, extractor, rows, state.is_main_process, resolution)
        if args.save_reference and state.is_main_process:
            save_reference(reference, args.save_reference)
            print(f"{reference.source}: {reference.num_images} images, hash {reference.hash}: {args.save_reference}")
    return None if pipe is None else _evaluate(args, pipe, extractor, reference, state, unfinished)


@contextmanager
def _warnings(shown: bool) -> Iterator[list[str]]:
    """The texts of the warnings given meanwhile, each once; they appear as one line and at once, above progress bars."""
    from tqdm.auto import tqdm

    messages: list[str] = []

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, UserWarning) and str(message) not in messages:
            messages.append(str(message))
            if shown:
                tqdm.write(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield messages


def _check(args: argparse.Namespace, metric_names: tuple[str, ...]) -> None:
    """What can be seen from the arguments alone."""
    from ..metrics.scores import check_num_images

    if not args.pipeline and not args.save_reference:
        raise ValueError("name a pipeline to evaluate, or a reference to make with --reference and --save-reference.")
    for option, value in (("--reconstruct", args.reconstruct), ("--save-images", args.save_images)):
        if value and not args.pipeline:
            raise ValueError(f"{option} needs a pipeline: name one.")
    if args.save_reference and not args.reference:
        raise ValueError("--save-reference writes what --reference names: give both.")
    if args.save_reference and not args.save_reference.endswith(".npz"):
        raise ValueError(f"--save-reference {args.save_reference}: a reference is an .npz file, name it so.")
    wrong = [name for name in args.metrics if name not in metric_names]
    if wrong:
        raise ValueError(f"--metrics takes {', '.join(metric_names)}, separated by commas, not {wrong[0]!r}.")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must not be negative.")
    if not 0 <= args.guidance_scale < math.inf:
        raise ValueError(f"--guidance-scale {args.guidance_scale:g} must be a number of at least 0; 0 is no guidance.")
    if args.pipeline and not args.reference and {"fid", "kid", "prdc"} & set(args.metrics):
        raise ValueError("distances need something to compare with: give --reference, or ask for --metrics is,class.")
    if args.pipeline and not args.reference and args.label_policy == "reference":
        raise ValueError("--label-policy reference takes the labels of a reference: give --reference.")
    if args.pipeline and args.num_images is not None:
        check_num_images(args.metrics, args.num_images, num_features=0)  # how many there are is not known yet
    given = [f"--{name.replace('_', '-')}" for name, default in GENERATION.items() if getattr(args, name) != default]
    if args.reconstruct and given:
        raise ValueError(f"--reconstruct generates nothing: leave out {', '.join(given)}.")
    for path in filter(None, (args.pipeline and args.output, args.save_images, args.save_reference)):
        folder = Path(path).absolute().parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(f"{path} cannot be written, since {folder} is no folder one can write to: name another.")
    if args.pipeline and Path(args.output).is_dir():
        raise ValueError(
            f"--output {args.output} is a folder: name a file in it, as in {args.output}/evaluation.json."
        )


def _state_folder(args: argparse.Namespace) -> Path:
    """Where the state of an unfinished run lies."""
    return Path(args.output + ".state")


def _refuse_to_overwrite(args: argparse.Namespace, unfinished: bool) -> None:
    if unfinished and not args.resume:
        raise ValueError(f"{_state_folder(args)} holds an unfinished evaluation: add --resume, or delete the folder.")
    if args.save_images and not unfinished and _image_writer(args.save_images).exists():
        raise ValueError(f"{args.save_images} exists already: name another place for the images, or delete it.")


def _image_writer(path: str) -> Any:
    from ..metrics.image_files import ImageArchive, ImageFolder

    return (ImageArchive if path.endswith(".npz") else ImageFolder)(path)


def _load_pipeline(name: str) -> AutoNATPipeline:
    from ..pipelines.pipeline_autonat import AutoNATPipeline

    try:
        return AutoNATPipeline.from_pretrained(name)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise
        raise ValueError(
            f"{name} is no folder of a pipeline, and none can be reached on the Hub by that id."
        ) from error


def _resolution(pipe: AutoNATPipeline) -> int:
    """Side of the pipeline's images in pixels."""
    return pipe.transformer.config.sample_size * pipe.vae_scale_factor


def _evaluate(
    args: argparse.Namespace,
    pipe: AutoNATPipeline,
    extractor: FeatureExtractor,
    reference: Reference | None,
    state: Any,
    unfinished: bool,
) -> dict[str, Any]:
    """The report, or the one that is there if --resume finds nothing left to do."""
    import torch

    from ..metrics import EvaluationCheckpoint, Evaluator
    from ..metrics.reports import flatten, load_report
    from ..provenance import hardware, model_hash, versions

    name = Path(args.pipeline).resolve().name if Path(args.pipeline).is_dir() else args.pipeline
    hashes = {part: model_hash(getattr(pipe, part)) for part in ("transformer", "vqvae")}
    pipe.to(state.device)
    # The tokenizer stays as it is: half precision breaks some of them, and it is the smaller part of the work.
    if args.dtype != "float32":
        torch.nn.Module.to(pipe.transformer, getattr(torch, args.dtype))  # diffusers' own warns of parts we have not
    evaluator = Evaluator(
        pipe, extractor, reference, args.metrics, args.label_policy, args.batch_size, state.is_main_process
    )
    make_images, labels, images = (_reconstructions if args.reconstruct else _generation)(args, pipe, evaluator)
    report: dict[str, Any] = {
        "values": {},
        "images": images,
        "pipeline": {"name": name, "class": type(pipe).__name__, **hashes, "dtype": args.dtype},
        "extractor": extractor.identity(),
        "reference": reference and {
            "source": reference.source, "hash": reference.hash, "num_images": reference.num_images,
            "feature_rows": 0 if reference.features is None else len(reference.features),
            "resolution": reference.resolution,
            "extractor": "assumed" if reference.extractor_assumed else "recorded",
        },
    }  # fmt: skip
    if reference and reference.resolution not in (None, _resolution(pipe)):
        warnings.warn(
            f"the reference's images were cropped to {reference.resolution} pixels, the pipeline's have "
            f"{_resolution(pipe)}: make the reference again at that resolution.",
            stacklevel=1,
        )
    made_of = ("images", "pipeline", "extractor", "reference")
    # Through JSON, so that it compares equal with what was read from a file.
    identity = json.loads(json.dumps(flatten(report, made_of) | {"metrics": sorted(args.metrics)}))
    output = Path(args.output)
    kept = identity | {"save_images": args.save_images}
    checkpoint = EvaluationCheckpoint(_state_folder(args), kept, args.save_seconds)
    writer = _image_writer(args.save_images) if args.save_images else None
    if args.resume and output.exists() and not unfinished:
        finished = load_report(output)
        if flatten(finished, made_of) | {"metrics": sorted(args.metrics)} == identity:
            if writer is not None and not writer.is_complete(images["num_images"]):
                raise ValueError(
                    f"{output} is finished, but its images are not in {args.save_images}: name another --output to "
                    "make them, or leave out --save-images."
                )
            return finished
    _refuse_to_overwrite(args, unfinished)
    output.parent.mkdir(parents=True, exist_ok=True)

    state.wait_for_everyone()
    start, count = time.perf_counter(), images["num_images"]
    ((_, values),) = evaluator.measure(
        make_images, labels, [count], description=images["kind"], on_images=writer, checkpoint=checkpoint
    )
    seconds = checkpoint.earlier_seconds + time.perf_counter() - start
    state.wait_for_everyone()
    if writer is not None and state.is_main_process:
        writer.finish(count)
    report["values"] = values
    report["run"] = {
        "seconds": round(seconds, 3),
        "images_per_second": round(count / seconds, 3),
        "resumed_images": evaluator.resumed_images,
        "num_processes": state.num_processes,
        "batch_size": args.batch_size,
        "hardware": hardware(),
        "versions": versions(*PACKAGES),
        "date": time.strftime("%Y-%m-%d"),
    }
    return report


def _generation(
    args: argparse.Namespace, pipe: AutoNATPipeline, evaluator: Evaluator
) -> tuple[Any, torch.Tensor, dict]:
    """How images are made, the labels they are asked for, and the report's words on both."""
    steps = args.num_inference_steps
    strategy = read_strategy(args.strategy, steps) if args.strategy else pipe.scheduler.get_strategy(steps)
    num_images = args.num_images or 10_000
    make_images, labels = evaluator.generation(num_images, args.seed, strategy, None, args.guidance_scale)
    stored = strategy.num_inference_steps in pipe.scheduler.stored_strategies
    return make_images, labels, {
        "kind": "generated", "num_images": num_images, "label_policy": args.label_policy, "seed": args.seed,
        "noise": evaluator.noise_device, "num_inference_steps": strategy.num_inference_steps,
        "strategy_source": Path(args.strategy).name if args.strategy else "stored" if stored else "cosine heuristic",
        "strategy": strategy.to_dict(), "guidance_scale": args.guidance_scale,
    }  # fmt: skip


def _reconstructions(
    args: argparse.Namespace, pipe: AutoNATPipeline, evaluator: Evaluator
) -> tuple[Any, torch.Tensor, dict]:
    """As `_generation`, for real images passed through the tokenizer: the floor that generation cannot go below."""
    import torch
    from datasets import ClassLabel, load_dataset
    from datasets import Image as ImageFeature

    from ..models.tokenizer import encode_images
    from ..training.data import ImageTransform, load_images

    name, dataset = local_dataset(args.reconstruct)
    if dataset is None and Path(args.reconstruct).is_dir():
        name, dataset = Path(args.reconstruct).name, load_images(train_data_dir=args.reconstruct, label_column=None)
    if dataset is None:
        path, _, split = args.reconstruct.rpartition(":")
        if not path:
            raise ValueError(f"{args.reconstruct} is no folder; name a dataset with its split, as in {split}:test.")
        dataset = load_dataset(path, split=split)
    columns = dataset.features or {}
    image_column = next((key for key, feature in columns.items() if isinstance(feature, ImageFeature)), None)
    label_column = next((key for key, feature in columns.items() if isinstance(feature, ClassLabel)), None)
    if image_column is None:
        raise ValueError(f"{args.reconstruct} has no column of images, only {', '.join(columns)}.")
    if label_column is None and "class" in args.metrics:
        raise ValueError(f"{args.reconstruct} has no labels: leave class out of --metrics.")
    if (args.num_images or 0) > len(dataset):
        raise ValueError(f"--num-images {args.num_images}: {args.reconstruct} has only {len(dataset)} images.")
    labels = torch.tensor(dataset[label_column][:]) if label_column else torch.zeros(len(dataset), dtype=torch.int64)
    dataset.set_transform(ImageTransform(_resolution(pipe), pipe.vqvae.config.in_channels, image_column, label_column))

    def reconstruct(indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pixels = torch.stack(dataset[indices.tolist()]["pixel_values"])
        return pipe.decode_latents(encode_images(pipe.vqvae, pixels.to(pipe.device, pipe.vqvae.dtype)))

    num_images = args.num_images or len(dataset)
    return reconstruct, labels, {"kind": "reconstructed", "num_images": num_images, "source": name}


def _write(args: argparse.Namespace, report: dict[str, Any]) -> None:
    """The report as a file, whole or not at all; then the table."""
    from ..metrics import EvaluationCheckpoint
    from ..metrics.reports import format_report

    output = Path(args.output)
    partial = output.with_name(output.name + ".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(partial, output)
    EvaluationCheckpoint(_state_folder(args), {}).delete()
    print(format_report(report))
    print(f"saved to {output}")


def _compare(paths: list[str]) -> None:
    """Exit status 1 where two reports cannot be compared."""
    from ..metrics.reports import compare_reports, format_comparison, load_report

    first, second = (load_report(path) for path in paths)
    print(format_comparison(first, second, (paths[0], paths[1])))
    if compare_reports(first, second)[0]:
        sys.exit(1)


def register(commands) -> None:
    command = commands.add_parser("evaluate", help="measure images against a reference", description=run.__doc__)
    command.add_argument("pipeline", nargs="?", help="folder or Hub id")
    group = command.add_argument_group("what is measured")
    group.add_argument("--num-images", type=positive, help="default: 10000; with --reconstruct all")
    group.add_argument("--num-inference-steps", type=positive, help="default: the longest stored strategy's")
    group.add_argument(
        "--strategy", help="a strategy file, or a search's scheduler_config.json, instead of a stored one"
    )
    group.add_argument("--guidance-scale", type=float, help="multiplies the strategy's scales")
    group.add_argument("--seed", type=int, help="of noise and labels")
    group.add_argument("--label-policy", choices=("balanced", "uniform", "reference"))
    group.add_argument("--dtype", choices=DTYPES, help="of the transformer; default: float32")
    group.add_argument("--reconstruct", metavar="DATA", help="measure the tokenizer's reconstructions of DATA")
    group = command.add_argument_group("how it is measured")
    group.add_argument("--reference", help=".npz, folder of images or IDX files, FOLDER:SPLIT, or DATASET:SPLIT")
    group.add_argument("--resolution", type=positive,
                       help="side that the reference's images are cropped to; default: the pipeline's")  # fmt: skip
    group.add_argument("--metrics", type=lambda text: tuple(text.replace(" ", "").split(",")), default=("fid",),
                       help="some of fid,kid,is,prdc,class; default: fid")  # fmt: skip
    group.add_argument("--feature-extractor", default="inception", help="inception or a transformers vision model")
    group.add_argument("--extractor-weights", help="weights file of inception; downloaded by default")
    group.add_argument("--images-per-call", type=positive, default=32,
                       help="batch of every call of pipeline and extractor; changes last digits: keep it")  # fmt: skip
    group.add_argument("--batch-size", type=positive, default=128,
                       help="images generated before they are measured; changes nothing but memory")  # fmt: skip
    group = command.add_argument_group("results")
    group.add_argument("--output", default="evaluation.json", help="the report; the state of a run lies beside it")
    group.add_argument("--resume", action="store_true", help="continue a killed run of the same command")
    group.add_argument("--save-seconds", type=float, default=60.0, help="between two saves of the state")
    group.add_argument("--save-images", metavar="PATH", help="folder for PNG files, or .npz for the ADM evaluator")
    group.add_argument("--save-reference", metavar="FILE", help="write the reference to an .npz; needs no pipeline")
    group.add_argument("--compare", nargs=2, metavar=("A", "B"), help="say whether two reports are comparable")
    command.set_defaults(run=run, **GENERATION)
