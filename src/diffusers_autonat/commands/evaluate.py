"""`diffusers-autonat evaluate`."""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

from ..command_line import number, positive, warning_lines
from ..launcher import end_with_launcher
from .arguments import add_extractor_arguments, add_generation_arguments, check_writable, chosen_strategy
from .environment import require_metrics


DTYPES = ("float32", "bfloat16", "float16")
LABEL_POLICIES = ("balanced", "uniform", "reference")  # here too, so that --help imports nothing
# What only generation takes, and the defaults.
GENERATION = {
    "num_inference_steps": None, "strategy": None, "heuristic": None, "remasking_temperature": None, "guidance_scale": 1.0,
    "seed": 0, "label_policy": "balanced", "captions": None, "dtype": "float32",
}  # fmt: skip
DEFAULT_IMAGES = 10_000
PACKAGES = ("diffusers-autonat", "torch", "diffusers", "transformers", "torchmetrics")


def run(args: argparse.Namespace) -> None:
    """Generate images and measure them, or measure a tokenizer's reconstructions.

    The result is a JSON report and a table. A killed run continues with --resume and ends with the same number. Runs
    on several processes under `accelerate launch`.
    """
    require_metrics("evaluate")
    check_arguments(args)

    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    end_with_launcher()
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    evaluate(args, state)
    state.destroy_process_group()


def check_arguments(args: argparse.Namespace) -> None:
    """What can be seen from the arguments alone."""
    from ..metrics.registry import METRICS, check_num_images

    wrong = [name for name in args.metrics if name not in METRICS]
    if wrong:
        raise ValueError(f"--metrics takes {', '.join(METRICS)}, separated by commas, not {wrong[0]!r}.")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must not be negative.")
    if not 0 <= args.guidance_scale < math.inf:
        raise ValueError(f"--guidance-scale {args.guidance_scale:g} must be a number of at least 0; 0 is no guidance.")
    if not args.reference and any(METRICS[name].needs_reference for name in args.metrics):
        others = ",".join(name for name, metric in METRICS.items() if not metric.needs_reference)
        raise ValueError(f"distances need something to compare with: give --reference, or ask for --metrics {others}.")
    if not args.reference and args.label_policy == "reference":
        raise ValueError("--label-policy reference takes the labels of a reference: give --reference.")
    if args.second_reference and not args.second_feature_extractor:
        raise ValueError("--second-reference goes with --second-feature-extractor.")
    if args.num_images is not None:
        check_num_images(args.metrics, args.num_images, num_features=0)  # how many there are is not known yet
    given = [f"--{name.replace('_', '-')}" for name, default in GENERATION.items() if getattr(args, name) != default]
    if args.reconstruct and given:
        raise ValueError(f"--reconstruct generates nothing: leave out {', '.join(given)}.")
    for path in filter(None, (args.output, args.save_images)):
        check_writable(path)
    if Path(args.output).is_dir():
        raise ValueError(
            f"--output {args.output} is a folder: name a file in it, as in {args.output}/evaluation.json."
        )


def evaluate(args: argparse.Namespace, state: Any) -> None:
    """Write and print the report; what is cheap to check comes before what takes long."""
    from ..cost import PassCounter
    from ..loading import warn_of_emulated
    from ..metrics import METRICS, EvaluationCheckpoint, Evaluator, Report, load_extractor
    from ..metrics.image_files import image_writer

    output, state_folder = Path(args.output), Path(args.output + ".state")
    unfinished = EvaluationCheckpoint(state_folder, {}).exists()
    maybe_finished = args.resume and output.exists() and not unfinished
    if not maybe_finished:
        refuse_to_overwrite(args, unfinished)
    with warning_lines(state.is_main_process):  # of the machine: it does not stay with the number
        warn_of_emulated(args.dtype, state.device)
    with warning_lines(state.is_main_process) as messages:
        extractor = load_extractor(args.feature_extractor, args.extractor_weights, args.images_per_call)
        extractor.to(state.device)
        pipe, pipeline = open_pipeline(args, state)
        if any(METRICS[name].needs_prompts for name in args.metrics):
            extractor.text_tower = open_text_tower(args, pipe).to(state.device)
        conditions = open_captions(args, pipe, extractor)
        reference = open_reference(args, pipe, extractor, conditions, state)
        second = open_second(args, pipe, extractor, conditions, state)
        evaluator = Evaluator(
            pipe,
            extractor,
            reference,
            args.metrics,
            args.label_policy,
            args.batch_size,
            state.is_main_process,
            conditions,
            second,
        )
        make_images, requests, images = (reconstruct if args.reconstruct else generate)(args, evaluator)
        report = Report(
            {},
            images,
            pipeline,
            extractor.identity(),
            reference.describe() if reference else None,
            run={},
            second_extractor=second.extractor.identity() if second else None,
            second_reference=second.reference.describe() if second and second.reference else None,
            warnings=messages,
        )
        count, writer = images["num_images"], image_writer(args.save_images)
        if maybe_finished and (finished := finished_report(args, report)):
            if writer is not None and not writer.is_complete(count):
                raise ValueError(
                    f"{output} is finished, but its images are not in {args.save_images}: name another --output to "
                    "make them, or leave out --save-images."
                )
            if state.is_main_process:
                EvaluationCheckpoint(state_folder, {}).delete()  # a kill may have left the empty folder
            return show(finished, args, state)
        refuse_to_overwrite(args, unfinished)

        kept = report.identity() | {"metrics": sorted(args.metrics), "save_images": args.save_images}
        checkpoint = EvaluationCheckpoint(state_folder, kept, args.save_seconds)
        state.wait_for_everyone()
        start = time.perf_counter()
        passes, calls = PassCounter(pipe.transformer), list[int]()

        def counted(indices: Any, asked: Any) -> Any:
            calls.append(len(indices))
            return make_images(indices, asked)

        ((_, report.values),) = evaluator.measure(
            counted, requests, [count], description=images["kind"], on_images=writer, checkpoint=checkpoint
        )
        seconds = checkpoint.earlier_seconds + time.perf_counter() - start
        state.wait_for_everyone()
    report.run = describe_run(args, state, seconds, count, evaluator.resumed_images)
    if images["kind"] == "generated":
        report.run |= describe_cost(pipe, images, state, passes.count, sum(calls))
    if state.is_main_process:
        if writer is not None:
            writer.finish(count)
        report.save(output)
        checkpoint.delete()
    show(report, args, state)


def finished_report(args: argparse.Namespace, wanted: Any) -> Any:
    """The report that is there, if it is of the same images and metrics; None if it is another."""
    from ..metrics import METRICS, Report
    from ..metrics.registry import metric_of

    found = Report.load(args.output)
    same_metrics = {metric_of(value) for value in found.values} == {METRICS[name] for name in args.metrics}
    return found if same_metrics and found.identity() == wanted.identity() else None


def describe_run(
    args: argparse.Namespace, state: Any, seconds: float, num_images: int, resumed_images: int
) -> dict[str, Any]:
    """What the report says of machine and time."""
    from ..provenance import hardware, versions

    return {
        "seconds": round(seconds, 3),
        "images_per_second": round(num_images / seconds, 3),
        "resumed_images": resumed_images,
        "num_processes": state.num_processes,
        "batch_size": args.batch_size,
        "hardware": hardware(),
        "versions": versions(*PACKAGES),
        "date": time.strftime("%Y-%m-%d"),
    }


def describe_cost(pipe: Any, images: dict[str, Any], state: Any, passes: int, made: int) -> dict[str, float]:
    """What an image took: passes of the transformer as they were counted in this run, and multiply-accumulates where these
    follow from the strategy or the policy."""
    import torch
    from accelerate.utils import reduce

    from ..cost import CostVaries, pipeline_cost
    from ..strategy_files import strategy_from_dict

    counts = torch.tensor([passes, made], device=state.device)
    all_passes, all_made = reduce(counts, reduction="sum").tolist()
    cost: dict[str, float] = {"passes_per_image": all_passes / all_made} if all_made else {}
    strategy = None if images["strategy"] is None else strategy_from_dict(images["strategy"])
    try:
        cost["macs_per_image"] = pipeline_cost(pipe, strategy, images["guidance_scale"]).total
    except CostVaries:
        pass
    return cost


def show(report: Any, args: argparse.Namespace, state: Any) -> None:
    if state.is_main_process:
        print(f"{report}\nsaved to {args.output}")


def refuse_to_overwrite(args: argparse.Namespace, unfinished: bool) -> None:
    """A ValueError where there is something of another run that is not to be continued."""
    if unfinished and not args.resume:
        raise ValueError(f"{args.output}.state holds an unfinished evaluation: add --resume, or delete the folder.")
    from ..metrics.image_files import image_writer

    writer = image_writer(args.save_images)
    if writer is not None and not unfinished and writer.exists():
        raise ValueError(f"{args.save_images} exists already: name another place for the images, or delete it.")


def open_pipeline(args: argparse.Namespace, state: Any) -> tuple[Any, dict[str, Any]]:
    """The pipeline with its strategy checked, and what the report says of it."""
    import torch

    from ..loading import add_text_encoder, load_pipeline
    from ..pipelines.prompts import takes_prompts
    from ..provenance import model_hash

    pipe = load_pipeline(args.pipeline)
    if args.text_encoder and takes_prompts(pipe) and pipe.text_encoder is None:  # else it is the judge's alone
        add_text_encoder(pipe, args.text_encoder)
    strategy = chosen_strategy(args, pipe)
    pipe.plan(args.num_inference_steps, strategy, None, torch.device("cpu"))
    name = Path(args.pipeline).resolve().name if Path(args.pipeline).is_dir() else args.pipeline
    parts = [
        part for part in ("transformer", "vqvae", "text_encoder", "policy") if getattr(pipe, part, None) is not None
    ]
    hashes = {part: model_hash(getattr(pipe, part)) for part in parts}
    if type(pipe.scheduler).__name__ != "NATScheduler":  # which reports of before there were others do not name
        hashes["scheduler"] = type(pipe.scheduler).__name__
    pipe.to(state.device)
    # The tokenizer stays as it is: half precision breaks some of them, and it is the smaller part of the work.
    if args.dtype != "float32":
        if hasattr(pipe.transformer, "graph"):
            raise ValueError(f"{args.pipeline} is exported, and runs as it is: leave --dtype {args.dtype} out.")
        torch.nn.Module.to(pipe.transformer, getattr(torch, args.dtype))  # diffusers' own warns of parts we have not
    return pipe, {"name": name, "class": type(pipe).__name__, **hashes, "dtype": args.dtype}


def open_text_tower(args: argparse.Namespace, pipe: Any) -> Any:
    """The part of the feature extractor that reads captions; it may need a text encoder, by default the pipeline's."""
    from ..loading import load_text_encoder
    from ..metrics import TextTower

    encoder, tokenizer = getattr(pipe, "text_encoder", None), getattr(pipe, "tokenizer", None)
    if args.text_encoder and getattr(encoder, "name_or_path", None) != args.text_encoder:
        encoder, tokenizer = load_text_encoder(args.text_encoder)
    return TextTower(args.feature_extractor, encoder, tokenizer)


def open_captions(args: argparse.Namespace, pipe: Any, extractor: Any) -> Any:
    """What a pipeline that draws from prompts is asked for: `--captions`, or those of the reference; None for classes.

    Where they come with classes that the extractor knows, images are asked to be of these too.
    """
    from ..metrics import CaptionConditions, read_captions
    from ..pipelines.prompts import takes_prompts

    if not takes_prompts(pipe):
        if args.captions:
            raise ValueError(f"--captions are for pipelines that draw from text, and {args.pipeline} has classes.")
        return None
    if args.label_policy != GENERATION["label_policy"]:
        raise ValueError(f"--label-policy is for pipelines with classes, and {args.pipeline} draws from text.")
    names = list(extractor.id2label.values()) if extractor.id2label else None
    if args.reconstruct:
        try:
            return read_captions(args.reconstruct, names)
        except ValueError:
            return CaptionConditions([""])  # nothing is asked for
    if not args.captions and not args.reference:
        raise ValueError(f"{args.pipeline} draws from text: give --captions FILE, with one in each line.")
    return read_captions(args.captions or args.reference, names)


def open_reference(args: argparse.Namespace, pipe: Any, extractor: Any, conditions: Any, state: Any) -> Any:
    """What images are compared with, None if with nothing; once the other metrics are seen to fit."""
    from ..metrics import METRICS, Evaluator

    if of_images_alone := [name for name in args.metrics if not METRICS[name].needs_reference]:
        Evaluator(pipe, extractor, None, of_images_alone, conditions=conditions)
    return load_cropped(args, args.reference, pipe, extractor, state) if args.reference else None


def open_second(args: argparse.Namespace, pipe: Any, first: Any, conditions: Any, state: Any) -> Any:
    """The second extractor with what it can measure of `--metrics`; None where none is named."""
    from ..metrics import METRICS, MetricSuite, check_second, knows_classes, load_extractor, load_second_reference

    if not args.second_feature_extractor:
        return None
    extractor = load_extractor(args.second_feature_extractor, batch_size=args.images_per_call).to(state.device)
    check_second(first, extractor)
    num_classes = conditions.num_classes if conditions else int(pipe.transformer.config.num_classes)
    known = knows_classes(extractor, num_classes)
    metrics = tuple(
        name
        for name in args.metrics
        if not METRICS[name].needs_prompts and (known or not METRICS[name].needs_class_labels)
    )
    if not metrics:
        raise ValueError(
            f"--second-feature-extractor {args.second_feature_extractor} can measure none of --metrics "
            f"{','.join(args.metrics)}: add fid, or leave it out."
        )
    if not args.reference or not any(METRICS[name].needs_reference for name in metrics):
        return MetricSuite(extractor, None, metrics)
    reference = load_second_reference(
        args.second_reference, args.reference, lambda source: load_cropped(args, source, pipe, extractor, state)
    )
    return MetricSuite(extractor, reference, metrics)


def load_cropped(args: argparse.Namespace, source: str, pipe: Any, extractor: Any, state: Any) -> Any:
    """A reference whose images are as large as the pipeline's, with a warning where they were not."""
    from ..metrics import MAX_ROWS, METRICS, load_reference

    side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
    needs_features = any(METRICS[name].needs_features for name in args.metrics)
    rows = min(args.num_images or DEFAULT_IMAGES, MAX_ROWS) if needs_features else 0
    reference = load_reference(source, extractor, rows, state.is_main_process, args.resolution or side)
    if reference.resolution not in (None, side):
        warnings.warn(
            f"the reference's images were cropped to {reference.resolution} pixels, the pipeline's have {side}: make "
            "the reference again at that resolution.",
            stacklevel=1,
        )
    return reference


def generate(args: argparse.Namespace, evaluator: Any) -> tuple[Any, Any, dict[str, Any]]:
    """How images are made, what they are asked to be, and the report's words on both."""
    scheduler, steps = evaluator.pipeline.scheduler, args.num_inference_steps
    strategy = chosen_strategy(args, evaluator.pipeline)
    policy = evaluator.pipeline.policy if strategy is None else None
    if policy is None and strategy is None:
        strategy = scheduler.get_strategy(steps)
    num_images = args.num_images or DEFAULT_IMAGES
    make_images, requests = evaluator.generation(num_images, args.seed, strategy, None, args.guidance_scale)
    if policy is not None:
        steps, source, schedules = policy.config.num_inference_steps, "the policy", None
    else:
        steps, schedules = strategy.num_inference_steps, strategy.to_dict()
        heuristic = "cosine heuristic" if type(scheduler).__name__ == "NATScheduler" else "heuristic"
        source = "stored" if steps in scheduler.stored_strategies else heuristic
        source = f"{args.heuristic} heuristic" if args.heuristic else source
        source = Path(args.strategy).name if args.strategy else source
    return make_images, requests, {
        "kind": "generated", "num_images": num_images, **evaluator.conditions.describe(), "seed": args.seed,
        "noise": evaluator.noise_device, "num_inference_steps": steps,
        "strategy_source": source, "strategy": schedules, "guidance_scale": args.guidance_scale,
    }  # fmt: skip


def reconstruct(args: argparse.Namespace, evaluator: Any) -> tuple[Any, Any, dict[str, Any]]:
    """As `generate`, for real images passed through the tokenizer."""
    from ..metrics import reconstruction

    names = list((evaluator.extractor.id2label or {}).values())
    name, make_images, requests = reconstruction(evaluator.pipeline, args.reconstruct, names)
    if (args.num_images or 0) > len(requests):
        raise ValueError(f"--num-images {args.num_images}: {args.reconstruct} has only {len(requests)} images.")
    num_images = args.num_images or len(requests)
    return make_images, requests, {"kind": "reconstructed", "num_images": num_images, "source": name}


def register(commands) -> None:
    command = commands.add_parser("evaluate", help="measure images against a reference", description=run.__doc__)
    command.add_argument("pipeline", help="folder or Hub id")
    group = command.add_argument_group("what is measured")
    group.add_argument("--num-images", type=positive, help=f"default: {DEFAULT_IMAGES}; with --reconstruct all")
    add_generation_arguments(group)
    group.add_argument("--label-policy", choices=LABEL_POLICIES, help="which classes images are of")
    group.add_argument("--captions", metavar="SOURCE",
                       help="prompts of a pipeline that draws from text: a .txt with one in each line, or a data set; "
                       "default: the reference's")  # fmt: skip
    group.add_argument("--dtype", choices=DTYPES, help="of the transformer")
    group.add_argument("--reconstruct", metavar="DATA", help="measure the tokenizer's reconstructions of DATA")
    group = command.add_argument_group("how it is measured")
    group.add_argument("--reference", help=".npz, folder of images or IDX files, FOLDER:SPLIT, or DATASET:SPLIT")
    group.add_argument("--resolution", type=positive,
                       help="side that the reference's images are cropped to; default: the pipeline's")  # fmt: skip
    group.add_argument("--metrics", type=lambda text: tuple(text.replace(" ", "").split(",")), default=("fid",),
                       help="some of fid,fid_error,kid,kid_error,is,prdc,class,per_class,r_precision")  # fmt: skip
    add_extractor_arguments(group)
    group.add_argument("--second-feature-extractor", metavar="FOLDER",
                       help="measures the same images too: names of its values begin with second_")  # fmt: skip
    group.add_argument("--second-reference", metavar="SOURCE",
                       help="its reference; default: --reference, which then has to be images")  # fmt: skip
    group.add_argument("--text-encoder", metavar="NAME",
                       help="of a pipeline or a --feature-extractor that reads captions and stores none; default of the "
                       "latter: the pipeline's")  # fmt: skip
    group.add_argument("--batch-size", type=positive, default=128,
                       help="images generated before they are measured; changes nothing but memory")  # fmt: skip
    group = command.add_argument_group("results")
    group.add_argument(
        "--output", required=True, metavar="FILE", help="the report, a JSON file; the state of a run lies beside it"
    )
    group.add_argument("--resume", action="store_true", help="continue a killed run of the same command")
    group.add_argument("--save-seconds", type=number(0), default=60.0, help="between two saves of the state")
    group.add_argument("--save-images", metavar="PATH", help="folder for PNG files, or .npz for the ADM evaluator")
    command.set_defaults(run=run, **GENERATION)
