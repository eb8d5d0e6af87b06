#!/usr/bin/env python
r"""Train a policy that sets r, tau1, tau2 and s of each step image by image, on a pipeline that stays as it is.

    diffusers-autonat train policy --pretrained_model_name_or_path PIPELINE --num_inference_steps 4 \
        --reference REFERENCE.npz --feature_extractor EXTRACTOR --second_feature_extractor OTHER --second_reference IMAGES \
        --output_dir outputs/policy

PPO with a reward at the end of each image. It starts from the strategy that the pipeline has stored, or from its policy.
The defaults are AdaNAT's: 4,096 images an update, 5 epochs, clip 0.2, value 0.5, Adam 1e-5, noise from 0.6.
`--reward influence`: how much an image brings the distance to the reference down; `discriminator`: what a discriminator
that learns beside it takes for real; or both. A second extractor and the class consistency watch it, and stop it.

Several GPUs: `accelerate launch --multi_gpu --num_processes N -m diffusers_autonat.cli` in the place of `diffusers-autonat`
(on the CPU with ACCELERATE_USE_CPU=true).
"""

import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from tqdm.auto import tqdm

from diffusers_autonat import AdaptivePolicyModel, AutoNATPipeline
from diffusers_autonat.command_line import Parser, number, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.files import whole_folder
from diffusers_autonat.launcher import end_with_launcher
from diffusers_autonat.loading import load_pipeline, warn_of_emulated
from diffusers_autonat.metrics import (
    LABEL_POLICIES,
    check_second,
    class_conditions,
    knows_classes,
    load_extractor,
    load_reference,
    load_second_reference,
)
from diffusers_autonat.pipelines.checks import check_policy, check_policy_order
from diffusers_autonat.strategy_files import read_strategy
from diffusers_autonat.training.checkpoints import Checkpoints, Unchanged, check_resume
from diffusers_autonat.training.checks import forget_folder, require_finite, warn_of_idle_cores, writable_folder
from diffusers_autonat.training.folder_lock import hold_folder
from diffusers_autonat.training.loop import MAX_SEED, History, seed_step
from diffusers_autonat.training.model_card import save_policy_card
from diffusers_autonat.training.policy_gradient import ActorCritic, exploration, joined, ppo_loss, rollout
from diffusers_autonat.training.prepared import plain_model
from diffusers_autonat.training.process_group import end_training
from diffusers_autonat.training.reward_guard import PolicyValidation, RewardGuard
from diffusers_autonat.training.rewards import (
    DiscriminatorReward,
    InfluenceReward,
    Reward,
    WeightedReward,
    standardised,
)
from diffusers_autonat.training.rewards.discriminator import features_of_images
from diffusers_autonat.training.uploads import add_upload_arguments, check_uploads, open_upload, upload


REWARDS = ("influence", "discriminator")
SIZES = {
    "hidden_size": 512,
    "conv_channels": 128,
    "mlp_channels": (1024, 512),
    "action_smooth": 0.8,
}  # of a new policy


def parse_args():
    parser = Parser(description=__doc__)
    model = parser.add_argument_group("pipeline and policy")
    model.add_argument("--pretrained_model_name_or_path", required=True, help="folder or Hub id of the pipeline")
    model.add_argument(
        "--num_inference_steps",
        type=whole(1, 10_000),
        help="T; default: the policy's, or the longest stored strategy's",
    )
    model.add_argument("--strategy", help="strategy file to start from, instead of a stored one")
    model.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the transformer"
    )
    model.add_argument(
        "--policy_hidden_size",
        dest="hidden_size",
        type=whole(1, 65536),
        help=f"channels of a new policy; default: {SIZES['hidden_size']}",
    )
    model.add_argument(
        "--policy_conv_channels",
        dest="conv_channels",
        type=whole(1, 65536),
        help=f"of its convolutions; default: {SIZES['conv_channels']}",
    )
    model.add_argument(
        "--policy_mlp_channels",
        dest="mlp_channels",
        type=whole(1, 65536),
        nargs=2,
        help="of its two hidden layers; default: {} {}".format(*SIZES["mlp_channels"]),
    )
    model.add_argument(
        "--action_smooth",
        type=number(0, 1),
        help=f"weight of the step before; default: {SIZES['action_smooth']}, AdaGen's; AdaNAT has 0",
    )
    reward = parser.add_argument_group("reward")
    reward.add_argument(
        "--reward", choices=REWARDS, nargs="+", default=["influence"], help="one, or both in a weighted sum"
    )
    reward.add_argument("--reward_weights", type=number(0), nargs="+", help="one for each reward; default: 1")
    reward.add_argument("--feature_extractor", required=True, help="inception or a transformers vision model")
    reward.add_argument(
        "--reference", required=True, help=".npz, folder of images or IDX files, FOLDER:SPLIT, DATASET:SPLIT"
    )
    reward.add_argument(
        "--label_policy", choices=list(LABEL_POLICIES), default="balanced", help="classes of an update"
    )
    reward.add_argument("--discriminator_extractor", help="default: --feature_extractor")
    reward.add_argument(
        "--real_images", help="what the discriminator takes for real: images, as --reference names them"
    )
    reward.add_argument("--num_real_images", type=positive, default=10_000, help="of them, so many are read")
    reward.add_argument(
        "--discriminator_learning_rate", type=number(0, 1e20), default=1e-4, help="of the discriminator"
    )
    reward.add_argument("--discriminator_steps", type=positive, default=5, help="for each update")
    reward.add_argument("--discriminator_batch_size", type=positive, default=128, help="per process")
    guard = parser.add_argument_group("guard")
    guard.add_argument("--second_feature_extractor", help="that no reward sees")
    guard.add_argument("--second_reference", help="default: --reference, which then has to be images")
    guard.add_argument("--validation_steps", type=positive, default=10, help="updates between two validations")
    guard.add_argument("--num_validation_images", type=whole(2), default=1000, help="of every validation")
    guard.add_argument(
        "--validation_seed",
        type=whole(0, MAX_SEED),
        default=1_000_003,
        help="of their labels and noise, the same each time",
    )
    guard.add_argument("--guard_validations", type=positive, default=3, help="in a row, until the training is stopped")
    guard.add_argument("--min_class_consistency", type=number(0, 1), help="default: 0.02 below the start's")
    train = parser.add_argument_group("training")
    train.add_argument("--output_dir", required=True, help="checkpoints, history and the pipeline with its policy")
    train.add_argument("--logging_dir", default="logs", help="of the tracker, in --output_dir")
    train.add_argument("--seed", type=whole(0, MAX_SEED), default=0, help="of labels, noise and actions")
    train.add_argument("--max_train_steps", type=positive, default=1000, help="updates")
    train.add_argument("--images_per_update", type=whole(2), default=4096, help="of all processes together")
    train.add_argument("--rollout_batch_size", type=positive, default=128, help="images made at once")
    train.add_argument("--ppo_epochs", type=positive, default=5, help="passes over an update's images")
    train.add_argument(
        "--train_batch_size", type=positive, help="images of a gradient step, per process; default: all"
    )
    train.add_argument("--clip_range", type=number(0), default=0.2, help="of the ratio of probabilities")
    train.add_argument("--value_weight", type=number(0), default=0.5, help="of the critic's loss")
    train.add_argument("--action_std", type=number(1e-6), default=0.6, help="of the noise on actions, at the start")
    train.add_argument("--min_action_std", type=number(1e-6), default=0.1, help="at the end; it falls linearly")
    train.add_argument("--learning_rate", type=number(0, 1e20), default=1e-5, help="of the policy")
    train.add_argument("--critic_learning_rate", type=number(0, 1e20), help="default: --learning_rate")
    train.add_argument("--adam_beta1", type=number(0, 1), default=0.9, help="of Adam's mean")
    train.add_argument("--adam_beta2", type=number(0, 1), default=0.999, help="of Adam's variance")
    train.add_argument("--max_grad_norm", type=number(0), default=1.0, help="at which gradients are cut")
    train.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default=None, help="of policy and critic")
    train.add_argument("--checkpointing_steps", type=positive, default=10, help="updates between two checkpoints")
    train.add_argument("--checkpoints_total_limit", type=positive, default=2, help="how many are kept")
    train.add_argument("--resume_from_checkpoint", help="a checkpoint folder, or 'latest'")
    train.add_argument("--report_to", default="tensorboard", help="tensorboard, trackio, wandb or all")
    add_upload_arguments(train)
    args = parser.parse_args()
    args.reward_weights = args.reward_weights or [1.0] * len(args.reward)
    check_uploads(args)
    return args


def check(args):
    """What can be seen from the arguments alone."""
    if len(set(args.reward)) < len(args.reward) or len(args.reward_weights) != len(args.reward):
        raise ValueError(f"--reward {' '.join(args.reward)} takes each once, and --reward_weights one for each.")
    if "discriminator" in args.reward and not args.real_images:
        raise ValueError("--reward discriminator learns from real images: name them with --real_images.")
    if args.action_smooth == 1:
        raise ValueError("--action_smooth 1 would keep the first step's action for ever: take less.")
    if args.second_reference and not args.second_feature_extractor:
        raise ValueError("--second_reference goes with --second_feature_extractor.")


def open_pipeline(args) -> AutoNATPipeline:
    """The pipeline with the policy that the training starts from."""
    pipeline = load_pipeline(args.pretrained_model_name_or_path)
    if not isinstance(pipeline, AutoNATPipeline):
        raise ValueError(
            f"{args.pretrained_model_name_or_path} is a {type(pipeline).__name__}: a policy is trained on an AutoNATPipeline."
        )
    check_policy_order(pipeline.scheduler)
    policy, steps = pipeline.policy, args.num_inference_steps
    sizes = {name: value for name in SIZES if (value := getattr(args, name)) is not None}
    if policy is not None and not args.strategy and steps in (None, policy.config.num_inference_steps):
        if sizes:
            raise ValueError(
                f"{args.pretrained_model_name_or_path} has a policy, whose {', '.join(sizes)} is its own: leave these options "
                "out, or name a --strategy with which a new one begins."
            )
    else:
        strategy = read_strategy(args.strategy, steps) if args.strategy else pipeline.scheduler.get_strategy(steps)
        config = pipeline.transformer.config
        policy = AdaptivePolicyModel(
            in_channels=config.hidden_size,
            grid_size=config.sample_size // getattr(config, "patch_size", 1),
            num_inference_steps=strategy.num_inference_steps,
            strategy=strategy.to_dict(),
            **SIZES | sizes,
        )
    check_policy(policy, pipeline.transformer, pipeline.scheduler)
    pipeline.register_modules(policy=policy)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def open_extractor(name: str, accelerator: Accelerator, known: dict):
    """Loaded once for each name."""
    if name not in known:
        known[name] = load_extractor(name).to(accelerator.device)
    return known[name]


def make_reward(args, accelerator: Accelerator, extractor, reference, extractors: dict, pipeline) -> Reward:
    rewards: dict[str, Reward] = {}
    for name in args.reward:
        if name == "influence":
            rewards[name] = InfluenceReward(accelerator, extractor, reference)
            continue
        judge = open_extractor(args.discriminator_extractor or args.feature_extractor, accelerator, extractors)
        features, labels = features_of_images(
            args.real_images, judge, args.num_real_images, side_of(pipeline), accelerator.is_main_process
        )
        num_classes = pipeline.transformer.config.num_classes
        if labels is not None and labels.max() >= num_classes:
            raise ValueError(
                f"{args.real_images} holds class {labels.max()}, and the pipeline has {num_classes} from 0."
            )
        rewards[name] = DiscriminatorReward(
            accelerator, judge, features, labels, num_classes, args.discriminator_learning_rate, args.discriminator_steps,
            args.discriminator_batch_size,
        )  # fmt: skip
    if len(rewards) == 1:
        return rewards[args.reward[0]]
    return WeightedReward(accelerator, {name: (rewards[name], w) for name, w in zip(args.reward, args.reward_weights)})


def side_of(pipeline: AutoNATPipeline) -> int:
    """Of the pipeline's images, in pixels."""
    return pipeline.transformer.config.sample_size * pipeline.vae_scale_factor


def main():
    args = parse_args()
    end_with_launcher()
    # 0. Everything that can be wrong is looked at before anything slow starts.
    check(args)
    writable_folder(args.output_dir)
    check_resume(args.output_dir, args.resume_from_checkpoint)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=args.report_to,
        project_config=ProjectConfiguration(args.output_dir, str(Path(args.output_dir, args.logging_dir))),
    )
    warn_of_idle_cores(accelerator)
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if accelerator.is_main_process:
        warn_of_emulated(args.dtype, device)
    if args.images_per_update % world:
        raise ValueError(f"--images_per_update {args.images_per_update} does not divide among {world} processes.")
    if accelerator.is_main_process:
        hold_folder(args.output_dir)
        open_upload(args)
    set_seed(args.seed)  # the same initial weights on every process

    # 1. The frozen pipeline, what measures its images, the reward
    pipeline = open_pipeline(args)
    policy, config = pipeline.policy, pipeline.transformer.config
    extractors: dict = {}
    extractor = open_extractor(args.feature_extractor, accelerator, extractors)
    reference = load_reference(args.reference, extractor, 0, accelerator.is_main_process, side_of(pipeline))
    second = None
    if args.second_feature_extractor:
        other = open_extractor(args.second_feature_extractor, accelerator, extractors)
        check_second(extractor, other)
        second = (
            other,
            load_second_reference(
                args.second_reference,
                args.reference,
                lambda source: load_reference(source, other, 0, accelerator.is_main_process, side_of(pipeline)),
                "--second_reference",
            ),
        )
    judges = [extractor, *(second or ())[:1]]
    if args.min_class_consistency is not None and not any(knows_classes(one, config.num_classes) for one in judges):
        raise ValueError("--min_class_consistency needs an extractor that knows the pipeline's classes: none does.")
    pipeline.to(device)
    pipeline.transformer.requires_grad_(False)
    # The tokenizer stays as it is, as in `evaluate`.
    torch.nn.Module.to(pipeline.transformer, getattr(torch, args.dtype))
    conditions = class_conditions(args.label_policy, config.num_classes, reference)
    validation = PolicyValidation(
        extractor, reference, second, args.num_validation_images, args.validation_seed, args.label_policy,
        args.rollout_batch_size,
    )  # fmt: skip

    # 2. Policy, critic, optimiser
    model = ActorCritic(policy)
    optimizer = torch.optim.Adam(
        [
            {"params": model.actor.parameters(), "lr": args.learning_rate},
            {"params": model.critic.parameters(), "lr": args.critic_learning_rate or args.learning_rate},
        ],
        betas=(args.adam_beta1, args.adam_beta2),
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = plain_model(accelerator, model)
    reward = make_reward(args, accelerator, extractor, reference, extractors, pipeline)
    guard = RewardGuard(args.guard_validations, args.min_class_consistency)
    # No weight has the shape of T or of the strategy: a policy of another would be taken for this one.
    parts = {
        "config": Unchanged(policy.config), "policy": model, "optimizer": optimizer, "guard": guard, **reward.parts(),
    }  # fmt: skip
    checkpoints = Checkpoints(accelerator, args.output_dir, parts, args.checkpoints_total_limit)
    max_steps = args.max_train_steps
    first_step = checkpoints.resume(args.resume_from_checkpoint, max_steps)
    if accelerator.is_main_process:
        accelerator.init_trackers("policy", {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))})
    history = History(Path(args.output_dir, "history.jsonl"), first_step, accelerator.is_main_process)
    validations = History(Path(args.output_dir, "validation.jsonl"), first_step, accelerator.is_main_process)
    accelerator.print(
        f"{' + '.join(args.reward)}, T = {policy.config.num_inference_steps}, {max_steps} updates of {args.images_per_update} "
        f"images, {policy.num_parameters():,} parameters in the policy"
    )

    def validate(step: int) -> None:
        values = validation(pipeline)
        guard.add(step, values, policy)
        accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=step)
        validations.append({"step": step, **values})

    # 3. Training
    progress = tqdm(total=max_steps, initial=first_step, disable=not accelerator.is_local_main_process)
    mine = torch.arange(rank, args.images_per_update, world)
    batch_size = args.train_batch_size or len(mine)
    start = time.time()
    if first_step == 0:
        validate(0)
    for step in range(first_step + 1, max_steps + 1):
        if guard.stopped:
            break
        began = time.time()
        seed_step(args.seed, step, rank)
        std = exploration(step, max_steps, args.action_std, args.min_action_std)

        # Images, and what they are worth
        requests = conditions.requests(args.images_per_update, args.seed + step)[mine]
        kept, seen = [], []
        for batch, images in rollout(pipeline, policy, std, requests, args.rollout_batch_size):
            kept.append(batch)
            seen.append(reward.see(images))
        trajectories = joined(kept)
        rewards, logs = reward(seen, requests.class_labels)  # [n]
        returns = standardised(accelerator, rewards)[:, None]  # [n, 1], of every step, since gamma is 1
        rollout_seconds = time.time() - began

        # What policy and critic were before they learn
        with torch.no_grad():
            before = [
                plain(trajectories.features[rows], trajectories.raw[rows], std)
                for rows in torch.arange(len(mine), device=device).split(batch_size)
            ]
        old_log_probs, old_values = (torch.cat(columns) for columns in zip(*before))  # [n, T]
        advantages = returns - old_values

        # Learning
        losses = []
        for _ in range(args.ppo_epochs):
            for rows in torch.randperm(len(mine), device=device).split(batch_size):
                log_probs, values = model(trajectories.features[rows], trajectories.raw[rows], std)
                loss, parts_of_loss = ppo_loss(
                    log_probs, old_log_probs[rows], values, returns[rows], advantages[rows], args.clip_range, args.value_weight
                )  # fmt: skip
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(torch.stack([loss.detach(), *parts_of_loss.values()]))
        logs |= reward.learn(seen, requests.class_labels)

        # Logs, validation, checkpoints
        progress.update()
        means = accelerator.reduce(torch.stack(losses).mean(dim=0), "mean").tolist()
        everyone = accelerator.gather(rewards)
        row = {
            "reward": everyone.mean().item(),
            "reward_std": everyone.std().item(),
            "explained": 1
            - accelerator.reduce(advantages.square().mean(), "mean").item(),  # of the returns, by the critic
            **dict(zip(["loss", *parts_of_loss], means)),
            **logs,
            "action_std": std,
            "rollout_seconds": round(rollout_seconds, 2),
            "update_seconds": round(time.time() - began, 2),
        }
        require_finite({"the loss": row["loss"], "the reward": row["reward"]}, step)
        progress.set_postfix({k: f"{row[k]:.3g}" for k in ("reward", "loss", "update_seconds")})
        accelerator.log(row, step=step)
        history.append({"step": step, "seconds": round(time.time() - start, 1), **row})
        if step % args.validation_steps == 0 or step == max_steps:
            validate(step)
        if step % args.checkpointing_steps == 0 or step == max_steps or guard.stopped:
            checkpoints.save(step)

    # 4. Save the pipeline as it was, with the best policy
    progress.close()
    if guard.stopped:
        accelerator.print(f"Stopped: {guard.stopped}.")
    if accelerator.is_main_process:
        policy.load_state_dict(guard.best)
        final = load_pipeline(
            args.pretrained_model_name_or_path
        )  # the weights of the transformer in their own precision
        final.register_modules(policy=policy.cpu())
        final.set_progress_bar_config(disable=True)
        for component in (final.vqvae, final.transformer):
            forget_folder(component)
        folder = Path(args.output_dir, "pipeline")
        with whole_folder(folder) as partial:
            final.save_pretrained(partial)
            save_policy_card(partial, final, args, guard, world)
        accelerator.print(f"Pipeline with the policy of update {guard.best_values['step']} saved to {folder}.")
        upload(args, folder)
    end_training(accelerator)


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
