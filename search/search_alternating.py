#!/usr/bin/env python
r"""Algorithm 1: search the generation strategy and the training strategy in turn, then once more for a bigger model.

    diffusers-autonat search alternating --num-inference-steps 4 --rounds 3 --epsilon 0.05 --num-trials 42 \
        --reference REFERENCE.npz --feature-extractor EXTRACTOR --output outputs/alternating \
        --final-pipeline outputs/autonat-L/pipeline -- \
        --train_data_dir outputs/tokens --vqvae outputs/vqgan/vqvae --use_ema --max_train_steps 2000

A round searches the generation strategy for the model trained with the present p(r), then p(r) with that strategy. Rounds
end when the confirmed distance changes by no more than epsilon. What follows `--` goes to `train autonat`, which makes the
small models of the search; a bigger model is trained with the p(r) that was found, and named with `--final-pipeline` when
the same command is run again. Every stage is a study: run the command again to resume, or several times at once to share
the work.
"""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
from arguments import (
    SEEDS,
    add_evaluation_arguments,
    add_knots_argument,
    add_num_trials_argument,
    add_start_arguments,
    add_study_arguments,
    add_training_arguments,
    add_upload_arguments,
    as_identity,
    candidate_trainer,
    judge_of,
    main_of_script,
    make_search,
    num_trials_of,
    open_upload,
    parse_args_before_dashes,
    pipeline_identity,
    refuse_new_noise,
    save_card,
    start_label,
    start_strategy,
    storage_location,
    upload,
)
from experiment_results import made_on

from diffusers_autonat import GenerationStrategy, TrainingStrategy
from diffusers_autonat.command_line import Parser, number, positive
from diffusers_autonat.files import write_json
from diffusers_autonat.plots import plot_bars, plot_schedules, title_of
from diffusers_autonat.search.confirm import Scored, score_candidates
from diffusers_autonat.search.gains import distance_of, error_of, gains_of, missed_by, unseen
from diffusers_autonat.search.generation import search_generation
from diffusers_autonat.search.judge import Judge
from diffusers_autonat.search.report import origin_of, read_provenance, save_strategy, writing
from diffusers_autonat.search.samplers import DEFAULT_SAMPLER, SAMPLERS, sampler_names
from diffusers_autonat.search.spaces import training_space, training_strategy
from diffusers_autonat.search.study import complete_trials, open_storage
from diffusers_autonat.search.training import CandidateTrainer, describe, search_training


def parse_args():
    parser = Parser(description=__doc__)
    parser.add_argument("--num-inference-steps", type=positive, default=4, help="T")
    parser.add_argument("--rounds", type=positive, default=3, help="at most")
    parser.add_argument("--epsilon", type=number(), default=0.05, help="change of the distance that ends the search")
    parser.add_argument(
        "--sampler", choices=sampler_names(), default=DEFAULT_SAMPLER, help="of the generation searches"
    )
    add_num_trials_argument(parser, "of each generation search")
    parser.add_argument("--final-pipeline", help="a bigger model, searched once from where the rounds ended")
    add_knots_argument(parser)
    add_start_arguments(parser)
    add_training_arguments(parser)
    add_evaluation_arguments(parser)
    add_study_arguments(parser)
    add_upload_arguments(parser)
    args = parse_args_before_dashes(parser)
    args.num_trials = num_trials_of(args)
    return args


class Alternation:
    """The two searches, each given what the other found; `images` counts those by which they chose."""

    def __init__(self, args, storage, judge: Judge, train: CandidateTrainer, name: str):
        self.args, self.storage, self.judge, self.train, self.name = args, storage, judge, train, name
        self.images = 0

    def generation(
        self,
        stage: str,
        pipeline,
        start: GenerationStrategy,
        searches_before: int,
        stored: GenerationStrategy | None = None,
    ) -> Scored:
        """The best generation strategy for a pipeline, confirmed, and never worse than `start` and what is `stored`."""
        args = self.args
        seed = args.seed + SEEDS * searches_before  # else it would draw what the one before it drew
        judge = replace(self.judge, seed=seed)
        knots, space, sampler = make_search(args, args.sampler, start, seed)
        of_pipeline = pipeline_identity(pipeline, start.num_inference_steps)
        found = search_generation(
            self.storage, f"{self.name}-{stage}",
            judge.identity(**of_pipeline, sampler=args.sampler, start=start.to_dict(), knots=knots), space,
            SAMPLERS[args.sampler].score(judge.score(pipeline), space), sampler, args.num_trials, confirm_score=judge.confirm_score(pipeline),
            confirm_identity=judge.confirm_identity(**of_pipeline), confirm_top=args.confirm_top, also={"start": start},
            stored={} if stored is None else {"stored": stored},
        )  # fmt: skip
        self._count(found.study, found.candidates)
        best = found.candidates[0]
        before = [one for one in found.candidates if one.label in ("start", "stored")]
        if doubt := unseen(gains_of(best, before, judge.value_name, judge.second_name)):
            warnings.warn(f"{stage}: {doubt}.", stacklevel=2)
        return best

    def training(self, stage: str, strategy: GenerationStrategy, start: TrainingStrategy) -> Scored:
        """The best p(r) for a generation strategy, confirmed."""
        args, judge = self.args, self.judge
        recipe = {"training": self.train.recipe, "strategy": strategy.to_dict()}
        space = training_space(start, args.alphas, args.betas)
        identity = judge.identity(**recipe, alphas=args.alphas, betas=args.betas, start=start.to_dict())
        name = f"{self.name}-{stage}"
        study = search_training(self.storage, name, identity, judge.training_score(self.train, strategy), space)
        found = [training_strategy(trial.params) for trial in complete_trials(study)[: args.confirm_top]]
        candidates = {describe(one): one for one in [*found, start]}
        confirm_identity = judge.confirm_identity(**recipe, **as_identity(candidates))
        score = judge.training_score(self.train, strategy, confirm=True)
        confirmed = score_candidates(self.storage, f"{name}-confirm", confirm_identity, candidates, score)
        self._count(study, confirmed)
        return confirmed[0]

    def fresh(self, stage: str, pipeline, strategy: GenerationStrategy) -> Scored:
        """Where a round ended, on noise by which nothing was chosen: what is confirmed is the best of several, round after round."""
        judge = self.judge.afresh
        identity = judge.confirm_identity(**pipeline_identity(pipeline, strategy.num_inference_steps))
        score = judge.confirm_score(pipeline)
        return score_candidates(self.storage, f"{self.name}-{stage}-fresh", identity, {stage: strategy}, score)[0]

    def _count(self, study: optuna.Study, confirmed: list[Scored]) -> None:
        """What a search drew, and its confirmation."""
        drawn = sum(trial.user_attrs["num_images"] for trial in complete_trials(study))
        self.images += drawn + len(confirmed) * self.args.confirm_images

    def first_model(self, training: TrainingStrategy) -> None:
        """Train where the search begins; a study, so that one worker trains and the others wait."""
        candidates = {describe(training): training}
        identity = {"training": self.train.recipe, **as_identity(candidates)}

        def score(candidate: TrainingStrategy, trial: optuna.Trial) -> float:
            self.train(candidate)
            return 0.0

        score_candidates(self.storage, f"{self.name}-first-model", identity, candidates, score)


def run(args):
    # 1. Everything that can be wrong, before the first training
    refuse_new_noise(args)
    if args.confirm_top < 1:
        raise ValueError("--confirm-top 0: rounds are compared by confirmed values")
    if args.start != "stored":  # else it is of a model that has still to be trained
        make_search(args, args.sampler, start_strategy(args, args.num_inference_steps, None), args.seed)
    read_provenance(args.output)
    storage, train = open_storage(storage_location(args)), candidate_trainer(args)
    training = TrainingStrategy(args.start_alpha, args.start_beta)
    training_space(training, args.alphas, args.betas)
    judge = judge_of(args)
    open_upload(args)
    output = Path(args.output)
    alternation = Alternation(
        args, storage, judge, train, args.study_name or f"alternating-T{args.num_inference_steps}"
    )

    settings = {
        "metric_name": judge.value_name, **judge.identity(), **judge.second_identity(), "sampler": args.sampler,
        "num_trials": args.num_trials, "num_inference_steps": args.num_inference_steps, "epsilon": args.epsilon,
        "confirm_images": args.confirm_images, "confirm_seed": args.confirm_seed, "fresh_seed": judge.afresh.confirm_seed,
        "training": train.shown_recipe, "alphas": args.alphas, "betas": args.betas, **made_on(),
    }  # fmt: skip

    # 2. Rounds
    alternation.first_model(training)
    pipeline, strategy, before, rounds, bars = judge.load_pipeline(train(training)), None, None, [], {}
    distance = partial(distance_of, name=judge.value_name)
    for number in range(1, args.rounds + 1):
        start = strategy or start_strategy(args, args.num_inference_steps, pipeline)
        found = alternation.generation(f"round{number}-generation", pipeline, start, len(rounds))
        strategy = found.strategy
        trained = alternation.training(f"round{number}-training", strategy, training)
        training, last = trained.strategy, trained
        pipeline = judge.load_pipeline(train(training))
        fresh = alternation.fresh(f"round{number}", pipeline, strategy)
        bars |= {f"round {number}: generation": found, f"round {number}: training": trained}
        bars[f"round {number}, fresh noise"] = fresh
        rounds.append({
            "round": number, "images": alternation.images, "after_generation": distance(found),
            "after_training": distance(trained), "fresh": distance(fresh), "after_generation_values": found.record["values"],
            "after_training_values": trained.record["values"], "fresh_values": fresh.record["values"],
            "training": training.to_dict(), "strategy": strategy.to_dict(),
        })  # fmt: skip
        with writing(output):
            write_json(output / "alternating.json", {**settings, "rounds": rounds})
        print(f"Round {number}: {judge.value_name} {distance(found):.4f}, then {distance(trained):.4f} with "
              f"{describe(training)}, {distance(fresh):.4f} on fresh noise")  # fmt: skip
        if before is not None and abs(trained.value - before) <= args.epsilon:
            break
        before = trained.value
    values = {label: distance(one) for label, one in bars.items()}
    errors = {label: error_of(one.record["values"], judge.value_name) for label, one in bars.items()}
    title = title_of("trained candidates", args.num_inference_steps, args.confirm_images)
    plot_bars(values, output / "rounds.png", judge.value_name, title=title, errors=errors)

    # 3. The strategy for the model that is to be used
    if args.final_pipeline:
        pipeline = judge.load_pipeline(args.final_pipeline)
    first, searches = start_strategy(args, args.num_inference_steps, pipeline), len(rounds)
    rows = [[row.replace(": ", ", after the search of "), f"{one:.4f}"] for row, one in values.items()]
    if args.final_pipeline:
        stored = pipeline.scheduler.stored_strategies.get(args.num_inference_steps)
        found = alternation.generation("final-generation", pipeline, strategy, searches, stored)
        strategy, last, searches = found.strategy, found, searches + 1
        rows.append(["the bigger model", f"{distance(last):.4f}"])
    value = distance(last)
    origin = origin_of(
        judge.confirm_identity(), pipeline, study=alternation.name, metric_name=judge.value_name, value=value,
        training=training.to_dict(), confirmed=True, sampler=args.sampler,
        search={"num_images": args.num_images, "seed": args.seed, "num_trials": searches * args.num_trials},
    )  # fmt: skip
    notes = [f"The model was trained with p(r) = {describe(training)}, which was found in turn with the strategy."]
    if missed := missed_by(judge.constraint, last):
        notes.append(f"It {missed}.")
        warnings.warn(notes[-1], stacklevel=2)
    with writing(output):
        save_strategy(output, pipeline.scheduler, strategy, origin)
        plot_schedules({"found": strategy, start_label(args): first}, output / "schedules.png",
                       title_of(args.final_pipeline or describe(training), args.num_inference_steps))  # fmt: skip
        compared = {args.num_inference_steps: (["measured", judge.value_name], rows)}
        save_card(args, args.final_pipeline or str(train(training)), pipeline, judge, origin, compared, notes)
    print(f"{judge.value_name} {value:.4f}: {describe(training)} and {output}/scheduler_config.json")
    upload(args)


if __name__ == "__main__":
    main_of_script(run, parse_args())
