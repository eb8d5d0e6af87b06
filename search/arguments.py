"""What the search scripts read from the command line, and what they make of it; they import it as their neighbour."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import torch

from diffusers_autonat import NATScheduler, TrainingStrategy
from diffusers_autonat.command_line import number, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.commands.arguments import add_text_encoder_argument, check_writable
from diffusers_autonat.hub import check_upload, open_repository, push_folder
from diffusers_autonat.loading import default_device, load_pipeline, warn_of_emulated
from diffusers_autonat.metrics import (
    LABEL_POLICIES,
    CaptionConditions,
    FeatureExtractor,
    Reference,
    load_extractor,
    load_reference,
    load_second_reference,
    read_captions,
)
from diffusers_autonat.metrics.registry import metric_of
from diffusers_autonat.pipelines.prompts import takes_prompts
from diffusers_autonat.provenance import pipeline_hash
from diffusers_autonat.search.card import UPLOADED, save_search_card
from diffusers_autonat.search.constraints import Constraint
from diffusers_autonat.search.interface import SamplerKind, SharedSampler
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.objective import METRICS
from diffusers_autonat.search.report import read_provenance
from diffusers_autonat.search.samplers import (
    DEFAULT_SAMPLER,
    KNOTS,
    MANY_STEPS,
    SAMPLERS,
    default_knots,
    make_sampler,
    make_space,
)
from diffusers_autonat.search.spaces import generation_start, resample_strategy
from diffusers_autonat.search.strategy_spaces import OneLengthSpace
from diffusers_autonat.search.training import CandidateTrainer
from diffusers_autonat.strategies import Strategy
from diffusers_autonat.strategy_files import read_strategies
from diffusers_autonat.training.recipes import RECIPES, heuristic_of, recipe_name


DEFAULT_JOURNAL = "search.journal"
SEEDS = 1_000  # between the seeds of two searches of one kind, which are also those of their noise
MAX_SEED = 2**31 - 1  # samplers add the number of a trial, and take 32 bits
TRAINING_SCRIPT = Path(__file__).resolve().parents[1] / "training" / "train_autonat.py"


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "study", "start the same command again to resume, or elsewhere to share the work"
    )
    group.add_argument("--storage", help=f"journal file or database URL; default: {DEFAULT_JOURNAL} in --output")
    group.add_argument("--study-name", help="default: made of the script's own arguments")
    group.add_argument("--output", required=True, help="folder for what the search finds")


def add_upload_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("upload")
    group.add_argument(
        "--push-to-hub", metavar="REPO", help="upload what was found, a scheduler, to this Hub repository"
    )
    group.add_argument(
        "--license", default="unknown", help="of what was found, for its card: an identifier of the Hub"
    )


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pipeline", help="folder or Hub id")
    add_text_encoder_argument(parser)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation", "what a strategy's value is")
    group.add_argument("--reference", required=True, help=".npz, folder of images or IDX files, or dataset:split")
    group.add_argument("--resolution", type=positive,
                       help="side that the reference's images are cropped to; default: the pipeline's")  # fmt: skip
    group.add_argument("--feature-extractor", default="inception", help="inception, or a transformers vision model")
    group.add_argument("--metric", choices=list(METRICS), default="fid", help="distance on the extractor's features")
    group.add_argument("--constraint", help="what strategies have to keep, such as 'class_consistency>=0.92'")
    group.add_argument("--num-images", type=positive, default=1000, help="for each trial")
    group.add_argument(
        "--seed",
        type=whole(0, MAX_SEED),
        default=0,
        help="of labels and noise, the same in each trial, and of samplers",
    )
    group.add_argument("--redraw-noise", action="store_true", help="new noise for each round (or trial)")
    group.add_argument(
        "--label-policy", choices=LABEL_POLICIES, default="balanced", help="which classes images are of"
    )
    group.add_argument("--captions", metavar="SOURCE",
                       help="prompts of a pipeline that draws from text: a .txt with one in each line, or a data set; "
                       "default: the reference's")  # fmt: skip
    group.add_argument("--batch-size", type=positive, default=128, help="images generated at once")
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the pipeline"
    )
    group.add_argument("--confirm-top", type=whole(0), default=5, help="trials measured again on fresh noise; 0: none")
    group.add_argument("--confirm-images", type=positive, default=5000, help="for each of them")
    group.add_argument("--confirm-seed", type=whole(0, MAX_SEED), default=1_000_003, help="of the fresh noise")
    group.add_argument("--second-feature-extractor", help="sees the images of the confirmation alone: whether gains are "
                       "real to another network than the search's")  # fmt: skip
    group.add_argument("--second-reference", help="its reference; default: --reference, which then has to be images")


def add_knots_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--knots",
        type=positive,
        help=f"schedules are curves through so many points; default: {KNOTS} from T = {MANY_STEPS} on, but for the sampler "
        "`released`; below, and with as many as T, every step has a value of its own",
    )


def add_num_trials_argument(parser: argparse.ArgumentParser, of: str) -> None:
    several = SAMPLERS[DEFAULT_SAMPLER].num_trials, SamplerKind.num_trials
    parser.add_argument(
        "--num-trials", type=positive, help=f"{of}; default: {several[0]} with {DEFAULT_SAMPLER}, else {several[1]}"
    )


def num_trials_of(args: argparse.Namespace) -> int:
    return args.num_trials or SAMPLERS[args.sampler].num_trials


def knots_of(args: argparse.Namespace, sampler: str, num_inference_steps: int) -> int | None:
    """Of the curves that are searched, None where there are none."""
    return args.knots or default_knots(sampler, num_inference_steps)


class Search(NamedTuple):
    """What is searched around a start, and by what; None knots: every step has its own value."""

    knots: int | None
    space: OneLengthSpace
    sampler: SharedSampler


def make_search(
    args: argparse.Namespace, sampler: str, start: Strategy, seed: int, free: Sequence[str] | None = None
) -> Search:
    """The search of the schedules that are `free`, by the sampler of that name.

    Raises:
        ValueError: The sampler cannot work with so few images or trials, or with the constraint.
    """
    knots = knots_of(args, sampler, start.num_inference_steps)
    space = make_space(sampler, start, free, knots)
    SAMPLERS[sampler].check(args.num_images, space, constraint_of(args))
    return Search(knots, space, make_sampler(sampler, space.parameters, args.num_trials, seed))


def add_start_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start")
    group.add_argument(
        "--start",
        default="heuristic",
        help="heuristic (of the transformer's paper; of another order: its own), released (where the paper's search starts), stored, or a file, also of another number of steps",
    )
    group.add_argument("--remasking-temperature", type=number(0), help="lambda of the heuristic; default: the paper's")
    group.add_argument("--guidance-scale", type=number(0), help="k of the heuristic; default: the paper's")


def given_settings(args: argparse.Namespace) -> dict[str, float]:
    """Those of the heuristic's settings that are given."""
    settings = {name: getattr(args, name) for name in ("remasking_temperature", "guidance_scale")}
    return {name: value for name, value in settings.items() if value is not None}


def start_strategy(args: argparse.Namespace, num_inference_steps: int, pipeline: Any) -> Any:
    """The strategy that `--start` names, of that many steps."""
    scheduler = None if pipeline is None else pipeline.scheduler
    if args.start == "heuristic" and scheduler is not None and not isinstance(scheduler, NATScheduler):
        return scheduler.heuristic(num_inference_steps)
    if args.start == "heuristic":
        heuristic = heuristic_of(pipeline) if pipeline is not None else RECIPES[planned_transformer(args)].heuristic
        return heuristic(num_inference_steps, **given_settings(args))
    if args.start == "released":
        return generation_start(num_inference_steps)
    if args.start == "stored":
        if pipeline is None:
            raise ValueError("--start stored: there is no pipeline yet; take heuristic, released or a file")
        return pipeline.scheduler.get_strategy(num_inference_steps)
    strategies = {strategy.num_inference_steps: strategy for strategy in read_strategies(args.start)}
    nearest = min(strategies, key=lambda steps: abs(steps - num_inference_steps))
    if nearest == num_inference_steps:
        return strategies[nearest]
    print(f"{args.start} has no strategy of {num_inference_steps} steps: the one of {nearest} is interpolated.")
    return resample_strategy(strategies[nearest], num_inference_steps)


def planned_transformer(args: argparse.Namespace) -> str:
    """What the models of a search that trains some are to be, as `train_autonat.py` names it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--transformer", choices=RECIPES, default="uvit")
    parser.add_argument("--pretrained_model_name_or_path")
    planned, _ = parser.parse_known_args(getattr(args, "training_args", []))
    goes_on_from = planned.pretrained_model_name_or_path
    return recipe_name(goes_on_from) if goes_on_from else planned.transformer


def start_label(args: argparse.Namespace) -> str:
    """What pictures call the start."""
    if args.start == "heuristic":
        symbols = {"remasking_temperature": "lambda", "guidance_scale": "k"}
        given = ", ".join(f"{symbols[name]} {value:g}" for name, value in given_settings(args).items())
        return f"heuristic ({given})" if given else "heuristic"
    return {"released": "released start", "stored": "stored before"}.get(args.start, Path(args.start).name)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("candidates of the training strategy")
    group.add_argument(
        "--start-alpha", type=number(0), default=1.0, help="Beta(alpha, beta) that the search starts from"
    )
    group.add_argument("--start-beta", type=number(0), default=1.0, help="see --start-alpha")
    group.add_argument("--alphas", type=number(0), nargs="+", default=[1, 2, 4, 8, 12, 16, 24], help="that are tried")
    group.add_argument("--betas", type=number(0), nargs="+", default=[0.5, 1, 2, 3, 4, 6], help="that are tried")
    group.add_argument("--launcher", default="", help="e.g. 'accelerate launch --multi_gpu'; default: this Python")
    group.add_argument("--candidates", help="folder of the trained candidates; default: candidates in --output")


def parse_args_before_dashes(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse what stands before `--`; what follows becomes `training_args`, in subcommands too."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    args.training_args = words[end + 1 :]
    return args


def candidate_trainer(args: argparse.Namespace) -> CandidateTrainer:
    folder = args.candidates or Path(args.output, "candidates")
    return CandidateTrainer(folder, TRAINING_SCRIPT, args.training_args, shlex.split(args.launcher))


def load_judged(args: argparse.Namespace) -> Any:
    """The pipeline that `args.pipeline` names, as its images are to be made."""
    return load_pipeline(args.pipeline, getattr(torch, args.dtype), default_device(), args.text_encoder)


def pipeline_identity(pipeline: Any, num_inference_steps: int | list[int]) -> dict[str, Any]:
    """What values of a pipeline depend on besides the evaluation."""
    order = type(pipeline.scheduler).__name__  # which studies of before there were others do not name
    return {
        "pipeline": pipeline_hash(pipeline),
        "num_inference_steps": num_inference_steps,
        **({} if order == "NATScheduler" else {"order": order}),
    }


def captions_of(args: argparse.Namespace, pipeline: Any = None) -> CaptionConditions | None:
    """What pipelines that draw from text are asked for: `--captions`, or those of the reference."""
    if pipeline is not None and not takes_prompts(pipeline) and args.captions:
        raise ValueError(f"--captions are for pipelines that draw from text, and {args.pipeline} has classes")
    if not args.captions and (pipeline is None or not takes_prompts(pipeline)):
        return None
    return read_captions(args.captions or args.reference)


def constraint_of(args: argparse.Namespace) -> Constraint | None:
    return None if args.constraint is None else Constraint.parse(args.constraint)


def judge_of(args: argparse.Namespace, pipeline: Any = None) -> Judge:
    """How the evaluation arguments say that strategies are measured; checked before the first image.

    Without a pipeline, because it has still to be trained, a reference's images are cropped as `--resolution` says.
    """
    warn_of_emulated(args.dtype, default_device())
    captions = captions_of(args, pipeline)
    extractor = load_extractor(args.feature_extractor).to(default_device())
    resolution = args.resolution
    if resolution is None and pipeline is not None:
        resolution = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    constraint = constraint_of(args)
    constrained = None if constraint is None else metric_of(constraint.name)
    needs_rows = args.metric == "kid" or (constrained is not None and constrained.needs_features)
    rows = 5000 if needs_rows else 0
    someone_looks = sys.stderr.isatty()

    def reference_of(one: FeatureExtractor, source: str) -> Reference:
        return load_reference(source, one, rows, someone_looks, resolution)

    second = None
    if args.second_feature_extractor:
        other = load_extractor(args.second_feature_extractor).to(default_device())
        load = partial(reference_of, other)
        second = other, load_second_reference(args.second_reference, args.reference, load)
    return Judge(
        extractor,
        reference_of(extractor, args.reference),
        metric=args.metric,
        num_images=args.num_images,
        seed=args.seed,
        redraw_noise=args.redraw_noise,
        label_policy=args.label_policy,
        batch_size=args.batch_size,
        dtype=args.dtype,
        confirm_images=args.confirm_images,
        confirm_seed=args.confirm_seed,
        progress=someone_looks,
        constraint=constraint,
        captions=captions,
        second=second,
    )


def refuse_new_noise(args: argparse.Namespace) -> None:
    """Where p(r) is searched: values of several rounds are compared."""
    if args.redraw_noise:
        raise ValueError("--redraw-noise: the line search over p(r) compares values of several rounds; leave it out")


def open_upload(args: argparse.Namespace) -> None:
    """Make the repository that `--push-to-hub` names, so that a wrong token or name is known before the search."""
    if args.push_to_hub:
        args.push_to_hub = open_repository(args.push_to_hub, "--push-to-hub")


def save_card(args: argparse.Namespace, base: str, pipeline: Any, judge: Judge, origin: dict[str, Any], compared: dict[int, Any],
              notes: Sequence[str] = ()) -> None:  # fmt: skip
    """
    The card beside what was found for a pipeline.

    Args:
        base: Folder or Hub id of the pipeline. origin: What the strategies that were found have in common in `search.json`.
        compared, notes: As `save_search_card` has them.
    """
    measured_by = (
        f"Extractor: {Path(args.feature_extractor).name} (weights {origin['extractor']}); "
        f"reference: {Path(args.reference).name} (hash {origin['reference']})."
    )
    if "second_extractor" in origin:
        measured_by += (
            f" Second extractor, which the search did not see: {Path(args.second_feature_extractor).name} (weights "
            f"{origin['second_extractor']}; reference {origin['second_reference']})."
        )
    output = Path(args.output)
    prompt = judge.captions.captions[0] if judge.captions is not None and takes_prompts(pipeline) else None
    save_search_card(
        output, args.push_to_hub or output.resolve().name, base, pipeline, pipeline.scheduler, read_provenance(output), compared,
        measured_by, args.license, notes, prompt, getattr(args, "text_encoder", None),
    )  # fmt: skip


def upload(args: argparse.Namespace) -> None:
    """What was found, where that is wanted: neither the journal nor the candidates."""
    if args.push_to_hub:
        push_folder(args.push_to_hub, args.output, "Found by a search", UPLOADED)


def as_identity(candidates: dict[str, TrainingStrategy]) -> dict[str, Any]:
    """Training strategies as part of a study's identity: a study scores the same ones each time."""
    return {"candidates": {label: candidate.to_dict() for label, candidate in candidates.items()}}


def storage_location(args: argparse.Namespace) -> str:
    return args.storage or str(Path(args.output, DEFAULT_JOURNAL))


def check(args: argparse.Namespace) -> None:
    """What all scripts are given, before anything is made or read."""
    check_writable(str(Path(args.output, DEFAULT_JOURNAL)))
    constraint_of(args)
    if args.confirm_top and not {args.confirm_seed, args.confirm_seed + 1}.isdisjoint(_seeds(args)):
        raise ValueError(
            f"--confirm-seed {args.confirm_seed}: a search draws by it or by the next, and winners need fresh noise"
        )
    if args.second_reference and not args.second_feature_extractor:
        raise ValueError("--second-reference goes with --second-feature-extractor")
    if args.second_feature_extractor and not args.confirm_top:
        raise ValueError("--second-feature-extractor sees the confirmation's images, and --confirm-top 0 makes none")
    if args.study_name is not None and not args.study_name.strip():
        raise ValueError("--study-name is empty: leave it out, or give a name")
    if getattr(args, "push_to_hub", None):
        check_upload(args.push_to_hub, "--push-to-hub")


def _seeds(args: argparse.Namespace) -> set[int]:
    """By which the searches of a script draw: one of each repetition, one of each round and of a bigger model after them."""
    searches = getattr(args, "repetitions", 1) * (1 + getattr(args, "rounds", 0))
    turns = getattr(args, "num_trials", 1) if args.redraw_noise else 1
    return {args.seed + SEEDS * search + turn for search in range(searches) for turn in range(turns)}


def main_of_script(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run a script: quiet libraries, one-line errors (exit status 2), and an interruption that says how to go on (130)."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failed trials are recorded with their reasons
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for chatty in ("httpx", "httpx2", "alembic", "diffusers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as clusters end jobs
    with one_line_errors(), warning_lines():  # a warning is one line, and given once, not in each trial
        try:
            check(args)
            run(args)
        except KeyboardInterrupt:
            print("Stopped. The same command goes on from here.", file=sys.stderr)
            raise
        except optuna.exceptions.OptunaError as error:  # such as a trial that other workers have given up
            raise ValueError(str(error)) from error
