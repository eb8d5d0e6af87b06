#!/usr/bin/env python
r"""Search the training strategy: Beta(alpha, beta) of the mask ratio, each candidate trained and scored.

    diffusers-autonat search training --strategy outputs/search-T4/scheduler_config.json --num-inference-steps 4 \
        --reference REFERENCE.npz --feature-extractor EXTRACTOR --output outputs/search-training -- \
        --train_data_dir outputs/tokens --vqvae outputs/vqgan/vqvae --use_ema --max_train_steps 2000

What follows `--` goes to `train autonat`. Run the same command again to resume: a candidate that is done is not
trained again, one that was interrupted goes on from its last checkpoint. Run it several times at once to train several
candidates at a time.
"""

from pathlib import Path

from arguments import (
    add_evaluation_arguments,
    add_study_arguments,
    add_training_arguments,
    as_identity,
    candidate_trainer,
    judge_of,
    main_of_script,
    parse_args_before_dashes,
    planned_transformer,
    refuse_new_noise,
    storage_location,
)

from diffusers_autonat import GenerationStrategy, TrainingStrategy
from diffusers_autonat.command_line import Parser, positive
from diffusers_autonat.files import write_json
from diffusers_autonat.plots import plot_bars, title_of
from diffusers_autonat.search.confirm import score_candidates
from diffusers_autonat.search.gains import error_of
from diffusers_autonat.search.report import save_trials, writing
from diffusers_autonat.search.spaces import training_space, training_strategy
from diffusers_autonat.search.study import complete_trials, open_storage
from diffusers_autonat.search.training import describe, search_training
from diffusers_autonat.strategy_files import read_strategy
from diffusers_autonat.training.recipes import RECIPES


def parse_args():
    parser = Parser(description=__doc__)
    parser.add_argument("--num-inference-steps", type=positive, help="T; default: the strategy's, or 8")
    parser.add_argument("--strategy", help="strategy file or scheduler_config.json to score with; default: heuristic")
    add_training_arguments(parser)
    add_evaluation_arguments(parser)
    add_study_arguments(parser)
    return parse_args_before_dashes(parser)


def scoring_strategy(args) -> GenerationStrategy:
    """The generation strategy that all candidates are scored with."""
    if args.strategy is None:
        return RECIPES[planned_transformer(args)].heuristic(args.num_inference_steps or 8)
    return read_strategy(args.strategy, args.num_inference_steps)


def run(args):
    # 1. Everything that can be wrong, before the first training
    refuse_new_noise(args)
    storage = open_storage(storage_location(args))
    train, strategy = candidate_trainer(args), scoring_strategy(args)
    space = training_space(TrainingStrategy(args.start_alpha, args.start_beta), args.alphas, args.betas)
    judge = judge_of(args)

    # 2. Search and confirm
    name = args.study_name or f"training-T{strategy.num_inference_steps}"
    recipe = {"training": train.recipe, "strategy": strategy.to_dict()}
    identity = judge.identity(**recipe, alphas=args.alphas, betas=args.betas)
    study = search_training(storage, name, identity, judge.training_score(train, strategy), space)
    trials = complete_trials(study)
    found = {describe(one): one for one in (training_strategy(trial.params) for trial in trials)}
    measured = [trial.user_attrs["values"] for trial in trials]
    if args.confirm_top:
        top = dict(list(found.items())[: args.confirm_top])
        confirm_name = f"{name}-confirm-{args.confirm_top}x{args.confirm_images}-{args.confirm_seed}"
        confirm_identity = judge.confirm_identity(**recipe, **as_identity(top))
        score = judge.training_score(train, strategy, confirm=True)
        confirmed = score_candidates(storage, confirm_name, confirm_identity, top, score)
        found, measured = {one.label: one.strategy for one in confirmed}, [one.record["values"] for one in confirmed]
    rows = [(label, values[judge.value_name], values) for label, values in zip(found, measured)]

    # 3. Report
    output, best = Path(args.output), found[rows[0][0]]
    num_images = args.confirm_images if args.confirm_top else args.num_images
    title = title_of("trained candidates", strategy.num_inference_steps, num_images)
    bars = {label: value for label, value, _ in rows}
    errors = {label: error_of(values, judge.value_name) for label, _, values in rows}
    plot_bars(bars, output / "candidates.png", judge.value_name, title=title, errors=errors)
    with writing(output):
        save_trials(study, output / "trials.csv")
        write_json(output / "training_strategy.json", {
            **best.to_dict(), "metric_name": judge.value_name, "value": rows[0][1], "study": name,
            "confirmed": bool(args.confirm_top),
            **(judge.confirm_identity(**recipe) if args.confirm_top else judge.identity(**recipe)), "training": train.shown_recipe,
            "candidates": [
                {"label": label, **found[label].to_dict(), "value": value, "values": values} for label, value, values in rows
            ],
        })  # fmt: skip
    print(f"Best p(r): {rows[0][0]}, {judge.value_name} {rows[0][1]:.4f}. Written to {output}")


if __name__ == "__main__":
    main_of_script(run, parse_args())
