#!/usr/bin/env python
r"""Train the tokenizer: a diffusers `VQModel` with reconstruction, commitment, adversarial and perceptual losses.

    diffusers-autonat train vqgan --train_data_dir /usr/share/datasets/fashion-mnist \
        --resolution 28 --num_channels 1 --perceptual_model outputs/perceptual --output_dir outputs/vqgan

Own images: `--preset tiny` (hundreds to a few thousand), `small` or `paper`; what is given beside it goes before.
From a checkpoint instead of from scratch: `--pretrained_model_name_or_path`. Resume: `--resume_from_checkpoint latest`.
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from diffusers import VQModel
from diffusers.optimization import get_scheduler
from diffusers.utils import make_image_grid
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from diffusers_autonat.command_line import Parser, number, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.commands.scripts import script_name
from diffusers_autonat.files import whole_folder
from diffusers_autonat.image_datasets import ImageTransform, ReadableImages, spread_rows
from diffusers_autonat.launcher import end_with_launcher
from diffusers_autonat.loading import load_vqvae
from diffusers_autonat.models.tokenizer import scale_factor
from diffusers_autonat.training.checkpoints import Checkpoints, check_resume
from diffusers_autonat.training.checks import (
    forget_folder,
    require_finite,
    require_finite_weights,
    require_length,
    require_levels,
    require_memory,
    warn_of_codebook,
    warn_of_discriminator,
    warn_of_idle_cores,
    warn_of_no_discriminator,
    warn_of_slow_precision,
    warn_of_steps,
    writable_folder,
)
from diffusers_autonat.training.data import add_data_arguments, images_of, random_flip
from diffusers_autonat.training.folder_lock import hold_folder
from diffusers_autonat.training.loop import (
    LR_SCHEDULERS,
    MAX_SEED,
    History,
    endless_batches,
    save_picture,
    seed_step,
)
from diffusers_autonat.training.model_card import save_tokenizer_card
from diffusers_autonat.training.prepared import plain_model
from diffusers_autonat.training.presets import VQGAN_PRESETS, parse_with_preset
from diffusers_autonat.training.process_group import end_training
from diffusers_autonat.training.uploads import add_upload_arguments, check_uploads, open_upload, upload
from diffusers_autonat.training.vqgan import (
    CodebookUsage,
    PatchDiscriminator,
    PerceptualLoss,
    VQAutoencoder,
    adaptive_weight,
    hinge_discriminator_loss,
)


def parse_args():
    parser = Parser(description=__doc__)
    add_data_arguments(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--pretrained_model_name_or_path", help="continue from this VQModel")
    model.add_argument(
        "--resolution", type=whole(1, 16384), default=256, help="side that images are scaled and cropped to"
    )
    model.add_argument("--random_flip", action="store_true", help="mirror images at random")
    model.add_argument("--num_channels", type=int, default=3, choices=[1, 3], help="image channels")
    model.add_argument(
        "--block_out_channels",
        type=whole(1, 65536),
        nargs="+",
        default=[128, 128, 256, 256, 512],
        help="channels of each level; each but the last halves the image",
    )
    model.add_argument("--layers_per_block", type=whole(1, 1000), default=2, help="residual blocks of each level")
    model.add_argument(
        "--codebook_size", type=whole(2, 2**24), help="default: 1024; more than a pretrained model has are added"
    )
    model.add_argument("--codebook_dim", type=whole(1, 65536), default=256, help="width of a code")
    model.add_argument(
        "--norm_num_groups", type=whole(1, 65536), default=32, help="of group normalisation: divides all channels"
    )
    model.add_argument("--mid_block_attention", action="store_true", help="self-attention at the lowest resolution")
    loss = parser.add_argument_group("losses")
    loss.add_argument("--commitment_weight", type=number(0), default=0.25, help="pull of the encoder to its codes")
    loss.add_argument("--l1_weight", type=number(0), default=1.0, help="of the absolute error")
    loss.add_argument("--l2_weight", type=number(0), default=0.0, help="of the squared error")
    loss.add_argument("--perceptual_model", help="any transformers vision model, by Hub id or folder")
    loss.add_argument("--perceptual_weight", type=number(0), default=1.0, help="of the distance in --perceptual_model")
    loss.add_argument("--adversarial_weight", type=number(0), default=0.8, help="0 trains without a discriminator")
    loss.add_argument(
        "--adversarial_start", type=whole(0), default=10_000, help="step at which the discriminator joins"
    )
    loss.add_argument(
        "--discriminator_hidden_size", type=whole(4, 65536), default=64, help="channels of its first layer"
    )
    loss.add_argument(
        "--discriminator_learning_rate", type=number(0, 1e20), default=None, help="default: the generator's"
    )
    loss.add_argument(
        "--quantization_start",
        type=number(0, 0.9),
        default=0.0,
        help="share of the training after which the codes join what was a plain autoencoder; a pretrained model has them",
    )
    loss.add_argument(
        "--revive_steps", type=whole(0), default=200, help="re-seed codes unused for so many steps; 0: never"
    )
    loss.add_argument(
        "--revive_until", type=number(0, 1), default=0.6, help="share of the training after which codes rest"
    )
    train = parser.add_argument_group("training")
    train.add_argument("--output_dir", required=True, help="folder of checkpoints, samples and, in the end, vqvae")
    train.add_argument("--logging_dir", default="logs", help="in --output_dir")
    train.add_argument(
        "--seed", type=whole(0, MAX_SEED), default=0, help="of the weights, the order of images and what is drawn"
    )
    train.add_argument("--train_batch_size", type=positive, default=32, help="per process")
    train.add_argument("--num_train_epochs", type=positive, default=1, help="times that all images are seen")
    train.add_argument("--max_train_steps", type=positive, help="overrides --num_train_epochs")
    train.add_argument("--learning_rate", type=number(0, 1e20), default=1e-4, help="the highest")
    train.add_argument("--lr_scheduler", choices=LR_SCHEDULERS, default="cosine", help="course of the learning rate")
    train.add_argument("--lr_warmup_steps", type=whole(0), default=100, help="in which the learning rate rises")
    train.add_argument("--adam_beta1", type=number(0, 1), default=0.5, help="of AdamW")
    train.add_argument("--adam_beta2", type=number(0, 1), default=0.9, help="of AdamW")
    train.add_argument("--max_grad_norm", type=number(0), default=1.0, help="gradients are clipped to")
    # The tokenizer overflows in fp16 (diffusers issue 5437), so that choice is not offered.
    train.add_argument(
        "--mixed_precision", choices=["no", "bf16"], default=None, help="default: as accelerate is configured"
    )
    train.add_argument("--dataloader_num_workers", type=whole(0, 1024), default=0, help="processes that read images")
    train.add_argument("--checkpointing_steps", type=positive, default=500, help="save the training so often")
    train.add_argument("--checkpoints_total_limit", type=positive, default=2, help="older ones are removed")
    train.add_argument("--resume_from_checkpoint", help="a checkpoint folder, or 'latest'")
    train.add_argument("--validation_steps", type=positive, default=500, help="reconstruct the same images so often")
    train.add_argument("--logging_steps", type=positive, default=20, help="log so often")
    train.add_argument("--report_to", default="tensorboard", help="tensorboard, trackio, wandb or all")
    add_upload_arguments(train)
    args = parse_with_preset(parser, VQGAN_PRESETS)
    require_length(args.preset, args.given)
    check_uploads(args)
    return args


def build_model(args) -> VQModel:
    if args.pretrained_model_name_or_path is not None:
        model = load_vqvae(args.pretrained_model_name_or_path).requires_grad_(True)
        return grow_codebook(model, args.codebook_size or model.config.num_vq_embeddings)
    require_levels(args.resolution, args.block_out_channels, args.norm_num_groups)
    levels = len(args.block_out_channels)
    config = {
        "in_channels": args.num_channels,
        "out_channels": args.num_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": args.block_out_channels,
        "layers_per_block": args.layers_per_block,
        "latent_channels": args.codebook_dim,
        "sample_size": args.resolution,
        "num_vq_embeddings": args.codebook_size or 1024,
        "norm_num_groups": args.norm_num_groups,
        "vq_embed_dim": args.codebook_dim,
        "mid_block_add_attention": args.mid_block_attention,
        "lookup_from_codebook": True,  # decode() takes token ids, which generation needs
    }
    require_memory(lambda: VQModel(**config))
    return VQModel(**config)


def grow_codebook(model: VQModel, codebook_size: int) -> VQModel:
    """The same model with more codes; the new ones are dead until the training revives them."""
    known = model.quantize.embedding.weight
    if codebook_size < len(known):
        raise ValueError(
            f"--codebook_size {codebook_size} is less than the {len(known)} codes of the pretrained model."
        )
    grown = VQModel.from_config(model.config, num_vq_embeddings=codebook_size)
    weights = model.state_dict() | {"quantize.embedding.weight": grown.quantize.embedding.weight.detach().clone()}
    weights["quantize.embedding.weight"][: len(known)] = known
    grown.load_state_dict(weights)
    return grown


def save_reconstructions(path: Path, images: torch.Tensor, reconstructions: torch.Tensor) -> None:
    """Originals above, reconstructions below, eight to a row; what is missing from the last row stays black."""
    missing = -len(images) % min(8, len(images))
    images, reconstructions = (F.pad(some, (0,) * 7 + (missing,)) for some in (images, reconstructions))
    rows = [row for pair in zip(images.split(8), reconstructions.split(8)) for row in pair]
    array = (torch.cat(rows).clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    pictures = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in array]
    save_picture(make_image_grid(pictures, rows=len(rows), cols=len(rows[0])), path)


@torch.no_grad()
def require_fitting(images: torch.Tensor, autoencoder, discriminator, perceptual) -> None:
    """Call every network once: a size that does not fit is known before the training."""
    try:
        shape = autoencoder(images)[0].shape
        discriminator(images)
        if perceptual is not None:
            perceptual(images, images)
    except RuntimeError as error:
        raise ValueError(f"images of {list(images.shape[1:])} do not fit the networks: {error}") from error
    if shape != images.shape:
        raise ValueError(
            f"images of {list(images.shape[2:])} come back as {list(shape[2:])}: choose a --resolution that can be halved "
            "as often as --block_out_channels asks for."
        )


def main():
    args = parse_args()
    end_with_launcher()
    writable_folder(args.output_dir)
    check_resume(args.output_dir, args.resume_from_checkpoint)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=args.report_to,
        project_config=ProjectConfiguration(args.output_dir, str(Path(args.output_dir, args.logging_dir))),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    if accelerator.is_main_process:
        hold_folder(args.output_dir)
        open_upload(args)
    set_seed(args.seed)

    # 1. Data
    dataset = images_of(args)
    model = build_model(args)
    channels = model.config.in_channels
    shown = spread_rows(dataset, args.label_column, 32)
    dataset = ReadableImages(dataset, ImageTransform(args.resolution, channels, args.image_column, None))
    loader = DataLoader(
        dataset, args.train_batch_size, shuffle=True, drop_last=True, num_workers=args.dataloader_num_workers
    )
    if len(loader) == 0:
        raise ValueError(f"{len(dataset)} images do not fill one batch of {args.train_batch_size}.")
    validation = torch.stack([row["pixel_values"] for row in dataset.__getitems__(shown)])
    warn_of_idle_cores(accelerator)
    warn_of_slow_precision(accelerator, args.mixed_precision)

    # 2. Models, losses, optimisers
    autoencoder = VQAutoencoder(model)
    model.quantize.beta = args.commitment_weight
    discriminator = PatchDiscriminator(channels, args.discriminator_hidden_size)
    perceptual = PerceptualLoss(args.perceptual_model).to(accelerator.device) if args.perceptual_model else None
    if perceptual is not None:
        perceptual.to(
            memory_format=torch.channels_last
        )  # saves a third of its time; the narrow autoencoder is as fast without
    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), args.learning_rate, betas, weight_decay=0.0)
    discriminator_lr = args.discriminator_learning_rate or args.learning_rate
    discriminator_optimizer = torch.optim.AdamW(discriminator.parameters(), discriminator_lr, betas, weight_decay=0.0)
    steps_per_epoch = math.ceil(len(loader) / accelerator.num_processes)
    max_steps = args.max_train_steps or args.num_train_epochs * steps_per_epoch
    if accelerator.is_main_process:
        adversarial_start = args.adversarial_start if args.adversarial_weight else None
        warn_of_steps(max_steps, args.lr_warmup_steps, args.learning_rate, adversarial_start)
        warn_of_no_discriminator(args.adversarial_weight, args.given)
        tokens_per_image = (args.resolution // scale_factor(model)) ** 2
        warn_of_codebook(model.config.num_vq_embeddings, len(dataset), tokens_per_image)
    # accelerate steps a prepared schedule once per process, so its lengths are counted in all processes' steps.
    lr_scheduler = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=max_steps * accelerator.num_processes,
    )  # fmt: skip
    autoencoder, discriminator, optimizer, discriminator_optimizer, loader, lr_scheduler = accelerator.prepare(
        autoencoder, discriminator, optimizer, discriminator_optimizer, loader, lr_scheduler
    )
    plain, plain_discriminator = plain_model(accelerator, autoencoder), plain_model(accelerator, discriminator)
    codebook = plain.vqvae.quantize.embedding.weight
    usage = CodebookUsage(len(codebook), accelerator.device)
    require_fitting(validation[:1].to(accelerator.device), plain, plain_discriminator, perceptual)
    parts = {
        "autoencoder": autoencoder,
        "discriminator": discriminator,
        "optimizer": optimizer,
        "discriminator_optimizer": discriminator_optimizer,
        "lr_scheduler": lr_scheduler,
        "codebook_usage": usage,
    }
    checkpoints = Checkpoints(accelerator, args.output_dir, parts, args.checkpoints_total_limit)
    first_step = checkpoints.resume(args.resume_from_checkpoint, max_steps)
    if accelerator.is_main_process:
        accelerator.init_trackers("vqgan", {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))})
    history = History(Path(args.output_dir, "history.jsonl"), first_step, accelerator.is_main_process)
    accelerator.print(
        f"{len(dataset)} images, {max_steps} steps, {sum(p.numel() for p in plain.parameters()):,} parameters"
    )

    # 3. Training
    progress = tqdm(total=max_steps, initial=first_step, disable=not accelerator.is_local_main_process)
    batches = endless_batches(loader, first_step)
    quantization_start = 0 if args.pretrained_model_name_or_path else int(args.quantization_start * max_steps)
    opinions: list[float] = []  # of the discriminator, as they are logged
    start = time.time()
    for step in range(first_step + 1, max_steps + 1):
        batch = next(batches)
        seed_step(args.seed, step, accelerator.process_index)
        images = random_flip(batch["pixel_values"]) if args.random_flip else batch["pixel_values"]

        # Generator
        quantizes = step > quantization_start
        reconstruction, quantization_loss, latents, codes = autoencoder(images, quantizes)
        loss_l1 = F.l1_loss(reconstruction, images)
        loss = args.l1_weight * loss_l1 + args.l2_weight * F.mse_loss(reconstruction, images)
        logs = {"l1": loss_l1.detach()}
        if quantizes:
            usage.update(accelerator.gather(codes))
            logs["quantization"] = quantization_loss.detach()
        if perceptual is not None:
            with accelerator.autocast():  # accelerate does so for the networks it has prepared only
                loss_perceptual = perceptual(reconstruction, images)
            loss = loss + args.perceptual_weight * loss_perceptual
            logs["perceptual"] = loss_perceptual.detach()
        adversarial = args.adversarial_weight > 0 and step > args.adversarial_start
        if adversarial:
            plain_discriminator.requires_grad_(False)
            loss_adversarial = -plain_discriminator(reconstruction).mean()
            weight = adaptive_weight(loss, loss_adversarial, plain.vqvae.decoder.conv_out.weight)
            loss = loss + args.adversarial_weight * weight * loss_adversarial
            logs["adversarial"] = loss_adversarial.detach()
            plain_discriminator.requires_grad_(True)
        accelerator.backward(loss + quantization_loss)
        accelerator.clip_grad_norm_(autoencoder.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        lr_scheduler.step()

        # Discriminator
        if adversarial:
            scores = discriminator(torch.cat([images, reconstruction.detach()]))
            loss_discriminator = hinge_discriminator_loss(*scores.chunk(2))
            accelerator.backward(loss_discriminator)
            discriminator_optimizer.step()
            discriminator_optimizer.zero_grad()
            logs["discriminator"] = loss_discriminator.detach()

        # Codebook health, logs, pictures, checkpoints
        progress.update()
        if step % args.logging_steps == 0 or step == max_steps:
            row = {name: value.item() for name, value in logs.items()}
            require_finite({f"the {name} loss": value for name, value in row.items()}, step)
            if adversarial and accelerator.is_main_process:
                opinions.append(row["discriminator"])
                warn_of_discriminator(opinions)
            if quantizes:
                row |= {"codes_used": usage.used(), "perplexity": usage.perplexity()}
            row["lr"] = lr_scheduler.get_last_lr()[0]
            progress.set_postfix({k: f"{v:.3g}" for k, v in row.items()})
            accelerator.log(row, step=step)
            history.append({"step": step, "seconds": round(time.time() - start, 1), **row})
        begins = step == quantization_start  # all codes are dead
        if begins or (quantizes and args.revive_steps and step % args.revive_steps == 0 and step < max_steps):
            if begins or step <= args.revive_until * max_steps:
                require_finite({"the l1 loss": loss_l1.item()}, step)  # reviving waits for the device anyway
                generator = torch.Generator().manual_seed(args.seed + step)
                revived = usage.revive(codebook, accelerator.gather(latents.detach()), generator)
                accelerator.log({"codes_revived": revived}, step=step)
            else:
                usage.counts.zero_()
        if accelerator.is_main_process and (step % args.validation_steps == 0 or step == max_steps):
            with torch.no_grad():
                pictures = plain(validation.to(accelerator.device))[0]
            save_reconstructions(Path(args.output_dir, "samples", f"step-{step:06d}.png"), validation, pictures)
        if step % args.checkpointing_steps == 0 or step == max_steps:
            checkpoints.save(step)

    progress.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        require_finite_weights(plain.vqvae, max_steps)
        forget_folder(plain.vqvae)
        folder = Path(args.output_dir, "vqvae")
        with whole_folder(folder) as partial:
            plain.vqvae.save_pretrained(partial)
            save_tokenizer_card(partial, plain.vqvae, args)
        users = " and ".join(map(script_name, ("tokenize_images", "train_autonat")))
        accelerator.print(
            f"Tokenizer saved to {folder}: {users} take it as --vqvae {folder}, Python as "
            f'VQModel.from_pretrained("{folder}").'
        )
        upload(args, folder)
    end_training(accelerator)


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
