#!/usr/bin/env python
r"""Train the masked-token transformer on a token set (or on images, which are tokenised first) and save a pipeline.

    diffusers-autonat train autonat --train_data_dir outputs/tokens --vqvae outputs/vqgan/vqvae \
        --hidden_size 192 --num_layers 7 --num_attention_heads 6 --use_ema --output_dir outputs/autonat

Own images: `--preset tiny` (hundreds to a few thousand), `small` or `paper`; what is given beside it goes before.
`--rank N` trains an adapter (LoRA) to a pretrained pipeline, and saves that alone.
With `--text_encoder NAME` it learns the captions that the token set keeps (`train tokenize --caption_column`).
The defaults are AutoNAT's: Beta(12, 3) mask ratios, label smoothing 0.1, 15 % null class, AdamW (0.99, 0.99).
`--transformer enat` trains ENAT instead: one mask ratio for each batch, and half of the batches reuse features.

Several GPUs: `accelerate launch --multi_gpu --num_processes N -m diffusers_autonat.cli` in the place of `diffusers-autonat`
(on the CPU with ACCELERATE_USE_CPU=true); sharded: with `--config_file`, for which the repository has training/fsdp.yaml.
"""

import argparse
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    set_seed,
)
from datasets import Dataset
from diffusers import DiffusionPipeline, ModelMixin, VQModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from diffusers_autonat import GenerationStrategy, NATScheduler, TrainingStrategy
from diffusers_autonat.command_line import Parser, number, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.files import whole_folder
from diffusers_autonat.launcher import end_with_launcher
from diffusers_autonat.loading import load_text_encoder, load_vqvae
from diffusers_autonat.provenance import model_hash
from diffusers_autonat.training.averages import averaged_copy, averaged_model, trained_parameters
from diffusers_autonat.training.checkpoints import Checkpoints, check_resume
from diffusers_autonat.training.checks import (
    forget_folder,
    require_finite,
    require_memory,
    warn_of_idle_cores,
    warn_of_slow_precision,
    warn_of_steps,
    writable_folder,
)
from diffusers_autonat.training.conditions import ClassCondition, Condition
from diffusers_autonat.training.data import add_data_arguments, images_of
from diffusers_autonat.training.folder_lock import hold_folder
from diffusers_autonat.training.loop import (
    LR_SCHEDULERS,
    MAX_SEED,
    History,
    endless_batches,
    log_image,
    seed_step,
)
from diffusers_autonat.training.lora import AdapterState, add_adapter, save_adapter
from diffusers_autonat.training.model_card import save_model_card
from diffusers_autonat.training.prepared import plain_model
from diffusers_autonat.training.presets import AUTONAT_PRESETS, parse_with_preset
from diffusers_autonat.training.process_group import end_training
from diffusers_autonat.training.recipes import RECIPES, Recipe, recipe_name, taken_by
from diffusers_autonat.training.text_condition import TextCondition
from diffusers_autonat.training.tokenizing import tokenize_dataset
from diffusers_autonat.training.tokens import is_token_set, load_token_set, warn_unreadable
from diffusers_autonat.training.uploads import add_upload_arguments, check_uploads, open_upload, upload


def parse_args():
    parser = Parser(description=__doc__)
    add_data_arguments(parser, captions=True)
    parser.add_argument("--resolution", type=whole(1, 16384), default=256, help="used where images are tokenised")
    parser.add_argument("--no_flips", action="store_true", help="used where images are tokenised")
    model = parser.add_argument_group("model")
    model.add_argument("--vqvae", help="folder or Hub id of the VQModel; default: that of the pretrained pipeline")
    model.add_argument("--pretrained_model_name_or_path", help="continue from the transformer of this pipeline")
    model.add_argument(
        "--rank", type=positive, help="train an adapter (LoRA) of this rank to the pretrained, nothing else"
    )
    model.add_argument(
        "--text_encoder", help="folder or Hub id: learn captions, not classes; default: the pretrained's"
    )
    model.add_argument(
        "--context_length", type=whole(1, 65536), help="tokens of a prompt; default: the pretrained's, or 77"
    )
    model.add_argument("--transformer", choices=list(RECIPES), default="uvit", help="uvit is AutoNAT's, enat ENAT's")
    model.add_argument("--hidden_size", type=whole(1, 65536), default=512, help="width")
    model.add_argument("--num_layers", type=whole(1, 1000), default=13, help="blocks; of ENAT those of the encoder")
    model.add_argument("--num_decoder_layers", type=whole(1, 1000), default=2, help="ENAT's blocks for masked tokens")
    model.add_argument("--num_attention_heads", type=whole(1, 4096), default=8, help="divides the width")
    model.add_argument(
        "--patch_size", type=whole(1, 64), default=1, help="tokens of a side that the U-ViT takes as one"
    )
    model.add_argument("--dropout", type=number(0, 1), default=0.1, help="of the transformer")
    model.add_argument("--gradient_checkpointing", action="store_true", help="less memory, a third more time")
    strategy = parser.add_argument_group("strategies")
    strategy.add_argument("--mask_distribution", choices=["beta", "arccos", "fixed"], default="beta", help="p(r)")
    strategy.add_argument("--mask_alpha", type=number(), default=12.0, help="of --mask_distribution beta")
    strategy.add_argument("--mask_beta", type=number(), default=3.0, help="of --mask_distribution beta")
    strategy.add_argument("--mask_ratio", type=number(), default=0.8, help="r of --mask_distribution fixed")
    strategy.add_argument(
        "--reuse_prob", type=number(0, 1), default=0.5, help="ENAT: share of batches that reuse features"
    )
    strategy.add_argument("--label_smoothing", type=number(0, 1), default=0.1, help="of the cross entropy")
    strategy.add_argument(
        "--cond_dropout_prob", type=number(0, 1), default=0.15, help="share of samples without class or caption"
    )
    strategy.add_argument(
        "--num_inference_steps", type=whole(0, 10_000), nargs="+", default=[4, 8], help="strategies to store"
    )
    heuristic = "of the stored strategies; default: that of the transformer's paper"
    strategy.add_argument("--sampling_temperature", type=number(), help=f"tau1 {heuristic}")
    strategy.add_argument("--remasking_temperature", type=number(), help=f"lambda {heuristic}")
    strategy.add_argument("--guidance_scale", type=number(), help=f"k {heuristic}")
    train = parser.add_argument_group("training")
    train.add_argument("--output_dir", required=True, help="folder of checkpoints, samples and, in the end, pipeline")
    train.add_argument("--logging_dir", default="logs", help="in --output_dir")
    train.add_argument(
        "--seed", type=whole(0, MAX_SEED), default=0, help="of the weights, the order of images and what is drawn"
    )
    train.add_argument("--train_batch_size", type=positive, default=128, help="per process")
    train.add_argument("--gradient_accumulation_steps", type=positive, default=1, help="batches of one step")
    train.add_argument("--num_train_epochs", type=positive, default=100, help="times that all images are seen")
    train.add_argument("--max_train_steps", type=positive, help="overrides --num_train_epochs")
    train.add_argument("--learning_rate", type=number(0, 1e20), default=4e-4, help="the highest")
    train.add_argument("--scale_lr", action="store_true", help="multiply it by processes, accumulation and batch")
    train.add_argument(
        "--lr_scheduler", choices=LR_SCHEDULERS, default="constant_with_warmup", help="course of the learning rate"
    )
    train.add_argument("--lr_warmup_steps", type=whole(0), default=5000, help="in which the learning rate rises")
    train.add_argument("--adam_beta1", type=number(0, 1), default=0.99, help="of AdamW")
    train.add_argument("--adam_beta2", type=number(0, 1), default=0.99, help="of AdamW")
    train.add_argument("--adam_weight_decay", type=number(0), default=0.03, help="of AdamW")
    train.add_argument("--adam_epsilon", type=number(0), default=1e-8, help="of AdamW")
    train.add_argument("--max_grad_norm", type=number(0), default=1.0, help="gradients are clipped to")
    train.add_argument(
        "--use_ema",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="average the weights, and draw with the average",
    )
    train.add_argument(
        "--ema_decay", type=number(0, 1), default=0.9999, help="reached gradually, so that EMA can warm up"
    )
    train.add_argument(
        "--mixed_precision", choices=["no", "fp16", "bf16"], default=None, help="default: as accelerate is configured"
    )
    train.add_argument("--allow_tf32", action="store_true", help="faster matrix products on NVIDIA GPUs")
    train.add_argument("--dataloader_num_workers", type=whole(0, 1024), default=0, help="processes that read tokens")
    train.add_argument("--checkpointing_steps", type=positive, default=1000, help="save the training so often")
    train.add_argument(
        "--checkpoints_total_limit", type=positive, help="older ones are removed; default: all are kept"
    )
    train.add_argument("--resume_from_checkpoint", help="a checkpoint folder, or 'latest'")
    train.add_argument("--validation_steps", type=positive, default=1000, help="draw a grid of images so often")
    train.add_argument("--logging_steps", type=positive, default=20, help="log so often")
    train.add_argument("--report_to", default="tensorboard", help="tensorboard, trackio, wandb or all")
    add_upload_arguments(train)
    args = parse_with_preset(parser, AUTONAT_PRESETS)
    check_uploads(args)
    return args


def training_strategy(args) -> TrainingStrategy:
    if args.mask_distribution == "beta":
        return TrainingStrategy(args.mask_alpha, args.mask_beta)
    return TrainingStrategy.arccos() if args.mask_distribution == "arccos" else TrainingStrategy.fixed(args.mask_ratio)


def load_tokens(args, vqvae: VQModel, accelerator: Accelerator):
    """The token set and its folder; made first where `--train_data_dir` or `--dataset_name` holds images."""
    folder = args.train_data_dir
    if not is_token_set(folder):
        folder = Path(args.output_dir, "tokens")
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                info = tokenize_dataset(
                    images_of(args), vqvae.to(accelerator.device), folder, args.resolution, args.image_column,
                    args.label_column, flips=not args.no_flips, caption_column=args.caption_column,
                )  # fmt: skip
                warn_unreadable(info)
    tokens, info = load_token_set(folder)
    if info.vqvae_hash != model_hash(vqvae):
        raise ValueError(f"the tokens in {folder} were made by another tokenizer than --vqvae; tokenise again.")
    return tokens.with_format("numpy"), info, folder


def load_condition(args, tokens, info, folder, accelerator: Accelerator) -> tuple[Condition, Dataset]:
    """Texts where there is a text encoder, else classes; and the token set as it is collated."""
    pretrained, context_length = args.pretrained_model_name_or_path, args.context_length or 77
    if pretrained:
        config = RECIPES[args.transformer].model_class.load_config(pretrained, subfolder="transformer")
        if config.get("context_dim") is None:
            pretrained = None
        else:
            context_length = args.context_length or config["context_length"]
    if not (args.text_encoder or pretrained):
        return ClassCondition.of(tokens, info, args.cond_dropout_prob), tokens
    text_encoder, tokenizer = load_text_encoder(args.text_encoder or pretrained, of_pipeline=not args.text_encoder)
    with accelerator.main_process_first():
        return TextCondition.of(
            tokens, info, text_encoder.to(accelerator.device), tokenizer, context_length, folder, args.cond_dropout_prob,
            accelerator.is_main_process,
        )  # fmt: skip


def stored_strategies(args, recipe: Recipe) -> list[GenerationStrategy]:
    """The heuristic of the transformer's paper for every number of steps."""
    names = ("sampling_temperature", "remasking_temperature", "guidance_scale")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return [recipe.heuristic(steps, **settings) for steps in args.num_inference_steps]


def build_transformer(args, recipe: Recipe, info, condition: Condition) -> ModelMixin:
    wanted = {"sample_size": info.sample_size, "codebook_size": info.codebook_size, **condition.transformer_config}
    if args.pretrained_model_name_or_path:
        model = recipe.model_class.from_pretrained(args.pretrained_model_name_or_path, subfolder="transformer")
        different = [name for name in wanted if model.config.get(name) != wanted[name]]
        if different:
            raise ValueError(
                f"the pretrained transformer has {', '.join(f'{name} = {model.config.get(name)}' for name in different)}, the "
                f"tokens have {', '.join(str(wanted[name]) for name in different)}."
            )
        return model
    names = ("hidden_size", "num_layers", "num_decoder_layers", "num_attention_heads", "patch_size", "dropout")
    sizes = {name: getattr(args, name) for name in names} | {"num_encoder_layers": args.num_layers}
    options = wanted | taken_by(recipe.model_class, sizes)
    require_memory(lambda: recipe.model_class(**options), copies=4 + args.use_ema)
    return recipe.model_class(**options)


def main():
    args = parse_args()
    end_with_launcher()
    # 0. Everything that can be wrong is looked at before anything slow starts.
    strategy = training_strategy(args)
    if args.vqvae is None and args.pretrained_model_name_or_path is None:
        raise ValueError("Name the tokenizer with --vqvae, or a pipeline with --pretrained_model_name_or_path.")
    if args.rank and args.pretrained_model_name_or_path is None:
        raise ValueError("--rank adapts a trained pipeline: name it with --pretrained_model_name_or_path.")
    if args.pretrained_model_name_or_path:
        args.transformer = recipe_name(args.pretrained_model_name_or_path)
    recipe = RECIPES[args.transformer]
    writable_folder(args.output_dir)
    check_resume(args.output_dir, args.resume_from_checkpoint)
    stored = stored_strategies(args, recipe)
    objective = recipe.objective(strategy, **taken_by(recipe.objective, vars(args)))
    if objective.needs_average and not args.use_ema:
        raise ValueError(
            f"--transformer {args.transformer} reuses features of the averaged model: add --use_ema, or --reuse_prob 0."
        )
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not objective.uses_all_parameters)],
        # Else the last batch of an epoch would end a step early, and a checkpoint lack gradients that are not used yet.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=args.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        mixed_precision=args.mixed_precision,
        log_with=args.report_to,
        project_config=ProjectConfiguration(args.output_dir, str(Path(args.output_dir, args.logging_dir))),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if sharded and args.use_ema and (args.resume_from_checkpoint or objective.needs_average):
        raise ValueError(
            "under FSDP every process averages its own part of the weights: that cannot be resumed, nor give features to"
            " reuse. Leave --use_ema out, or train without FSDP."
        )
    if sharded and args.rank:
        raise ValueError("an adapter is small: train --rank without FSDP.")
    if accelerator.is_main_process:
        hold_folder(args.output_dir)
        open_upload(args)
    set_seed(args.seed)  # the same initial weights on every process
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32

    # 1. Tokenizer, tokens, condition
    if args.vqvae:
        vqvae = load_vqvae(args.vqvae)
    else:
        vqvae = load_vqvae(args.pretrained_model_name_or_path, "vqvae")
    dataset, info, folder = load_tokens(args, vqvae, accelerator)
    condition, dataset = load_condition(args, dataset, info, folder, accelerator)
    warn_of_idle_cores(accelerator)
    warn_of_slow_precision(accelerator, args.mixed_precision)

    # 2. Transformer, EMA, optimiser
    model = build_transformer(args, recipe, info, condition)
    if args.rank:
        add_adapter(model, args.rank)
    if sharded:
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = model._repeated_blocks
    model.train()
    if args.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    scheduler = NATScheduler(info.codebook_size, [one.to_dict() for one in stored])
    loader = DataLoader(
        dataset, args.train_batch_size, shuffle=True, drop_last=True, collate_fn=condition.collate,
        num_workers=args.dataloader_num_workers, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    if len(loader) < accelerator.num_processes:
        raise ValueError(f"{len(dataset)} token rows do not fill one batch of {args.train_batch_size} per process.")
    world = accelerator.num_processes
    learning_rate = args.learning_rate
    if args.scale_lr:
        learning_rate *= args.gradient_accumulation_steps * args.train_batch_size * world
    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = torch.optim.AdamW(
        trained_parameters(model), learning_rate, betas, args.adam_epsilon, args.adam_weight_decay
    )
    steps_per_epoch = max(1, len(loader) // world // args.gradient_accumulation_steps)
    max_steps = args.max_train_steps or args.num_train_epochs * steps_per_epoch
    if accelerator.is_main_process:
        warn_of_steps(max_steps, args.lr_warmup_steps, learning_rate)
    # accelerate steps a prepared schedule once per process, so its lengths are counted in all processes' steps.
    lr_scheduler = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps * world,
        num_training_steps=max_steps * world,
    )  # fmt: skip
    model, optimizer, loader, lr_scheduler = accelerator.prepare(model, optimizer, loader, lr_scheduler)
    learned = {"adapter": AdapterState(plain_model(accelerator, model))} if args.rank else {"transformer": model}
    parts, ema = learned | {"optimizer": optimizer, "lr_scheduler": lr_scheduler}, None
    if args.use_ema:
        ema = EMAModel(trained_parameters(model), decay=args.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        ema.to(accelerator.device)
        parts["ema"] = ema

    checkpoints = Checkpoints(accelerator, args.output_dir, parts, args.checkpoints_total_limit)
    first_step = checkpoints.resume(args.resume_from_checkpoint, max_steps)
    if accelerator.is_main_process:
        accelerator.init_trackers("autonat", {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))})
    if ema is not None:
        ema.to(accelerator.device)  # a checkpoint is read to the CPU
    if objective.needs_average:
        objective.averaged = averaged_model(plain_model(accelerator, model), ema)
    history = History(Path(args.output_dir, "history.jsonl"), first_step, accelerator.is_main_process)
    parameters = sum(p.numel() for p in trained_parameters(model))
    accelerator.print(
        f"{len(dataset)} token rows of {info.sample_size}x{info.sample_size}, {condition}, {max_steps} steps of "
        f"{args.train_batch_size * world * args.gradient_accumulation_steps}, {parameters:,} parameters, p(r) {strategy}"
    )

    def validate(step: int) -> DiffusionPipeline | None:
        """Draw samples from the averaged weights; returns the pipeline that drew them, on the main process."""
        transformer = averaged_copy(accelerator, model, ema)
        if transformer is None:
            return None
        pipeline = condition.pipeline(vqvae, transformer, scheduler).to(accelerator.device)
        pipeline.set_progress_bar_config(disable=True)
        path = Path(args.output_dir, "samples", f"step-{step:07d}.png")
        log_image(accelerator, "samples", condition.samples(pipeline, args.seed), path, step)
        return pipeline

    # 3. Training
    progress = tqdm(total=max_steps, initial=first_step, disable=not accelerator.is_local_main_process)
    accumulation = args.gradient_accumulation_steps
    batches = endless_batches(loader, first_step * accumulation)
    totals = torch.zeros(2, device=accelerator.device)  # loss and token accuracy since the last log line
    start = time.time()
    logged_at, logged_step = start, first_step
    for step in range(first_step + 1, max_steps + 1):
        for micro_step in range((step - 1) * accumulation, step * accumulation):
            batch = next(batches)
            seed_step(args.seed, micro_step + 1, accelerator.process_index)
            with accelerator.accumulate(model):
                tokens = batch["input_ids"]
                input_ids = objective.hide(tokens, scheduler)
                inputs = condition.batch(batch)
                with accelerator.autocast():
                    inputs |= objective.reuse(input_ids, inputs, scheduler)
                logits = model(input_ids, **inputs, return_dict=False)[0]
                loss, accuracy = objective.score(logits, tokens, input_ids, scheduler)
                totals += torch.stack([loss.detach(), accuracy])
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained_parameters(model), args.max_grad_norm)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
        if ema is not None:
            ema.step(trained_parameters(model))

        progress.update()
        if step % args.logging_steps == 0 or step == max_steps:
            means = accelerator.reduce(totals, "mean") / ((step - logged_step) * accumulation)
            loss_value, accuracy_value = means.tolist()
            now = time.time()
            images = (step - logged_step) * accumulation * args.train_batch_size * world
            row = {
                "loss": loss_value,
                "token_accuracy": accuracy_value,
                "lr": lr_scheduler.get_last_lr()[0],
                "images_per_second": images / (now - logged_at),
            }
            require_finite({"the loss": loss_value}, step)
            totals.zero_()
            logged_at, logged_step = now, step
            progress.set_postfix({k: f"{v:.3g}" for k, v in row.items()})
            accelerator.log(row, step=step)
            history.append({"step": step, "seconds": round(now - start, 1), **row})
        if step % args.validation_steps == 0 and step < max_steps:
            validate(step)
        if step % args.checkpointing_steps == 0 and step < max_steps:
            checkpoints.save(step)

    # 4. Save the pipeline, or the adapter
    progress.close()
    if first_step < max_steps:
        checkpoints.save(max_steps)
    pipeline = validate(max_steps)
    if pipeline is not None:
        folder = Path(args.output_dir, "lora" if args.rank else "pipeline")
        for component in (pipeline.vqvae, pipeline.transformer):
            forget_folder(component)
        with whole_folder(folder) as partial:
            if args.rank:
                save_adapter(pipeline, partial)
            else:
                pipeline.save_pretrained(partial)
            save_model_card(partial, pipeline, condition, args, info, strategy, world)
        name, method = type(pipeline).__name__, "load_lora_weights" if args.rank else "from_pretrained"
        shell = "" if args.rank else f", in the shell diffusers-autonat generate {folder} --output images.png"
        accelerator.print(
            f'{"Adapter" if args.rank else "Pipeline"} saved to {folder}: load it with {name}.{method}("{folder}"){shell}.'
        )
        upload(args, folder)
    end_training(accelerator)


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
