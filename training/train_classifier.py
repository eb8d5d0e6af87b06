#!/usr/bin/env python
r"""Train a small image classifier in transformers format: the judge and feature extractor of the evaluation, or the
perceptual network of `train vqgan` (train that one with another seed and width: a judge must not have been trained against).

    diffusers-autonat train classifier --train_data_dir /usr/share/datasets/fashion-mnist \
        --output_dir outputs/judge

Own images: a folder with one sub-folder for each class, any `--resolution`. It is tested on the split `test`; where there is none,
a tenth of each class is held out.
"""

import json
import time

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import RegNetConfig, RegNetForImageClassification

from diffusers_autonat.command_line import Parser, number, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.image_datasets import ImageTransform, ReadableImages, label_names, num_channels_of
from diffusers_autonat.launcher import end_with_launcher
from diffusers_autonat.training.checks import (
    require_finite,
    require_finite_weights,
    require_memory,
    warn_of_idle_cores,
    writable_folder,
)
from diffusers_autonat.training.data import (
    add_data_arguments,
    add_test_arguments,
    images_of,
    random_flip,
    train_and_test,
)
from diffusers_autonat.training.judge_card import judge_card
from diffusers_autonat.training.judges import check_stages, save_judge
from diffusers_autonat.training.loop import MAX_SEED
from diffusers_autonat.training.prepared import plain_model
from diffusers_autonat.training.process_group import end_training
from diffusers_autonat.training.uploads import add_upload_arguments, check_uploads, open_upload, upload


def parse_args():
    parser = Parser(description=__doc__)
    add_data_arguments(parser)
    add_test_arguments(parser)
    parser.add_argument("--output_dir", required=True, help="folder of the classifier")
    parser.add_argument("--resolution", type=whole(1, 16384), default=28, help="size at which images are read")
    parser.add_argument(
        "--input_size",
        type=whole(1, 16384),
        help="size that they are enlarged to, since the stem halves it; default: --resolution, and at least 48",
    )
    parser.add_argument("--random_flip", action="store_true", help="mirror images at random")
    parser.add_argument(
        "--num_channels", type=int, choices=[1, 3], help="image channels; default: those of the images"
    )
    parser.add_argument(
        "--hidden_sizes", type=whole(1, 65536), nargs="+", default=[32, 64, 128], help="width of each stage"
    )
    parser.add_argument("--depths", type=whole(1, 1000), nargs="+", default=[1, 1, 2], help="blocks of each stage")
    parser.add_argument("--num_train_epochs", type=positive, default=8, help="times that all images are seen")
    parser.add_argument("--train_batch_size", type=positive, default=128, help="per process")
    parser.add_argument(
        "--learning_rate", type=number(0, 1e20), default=3e-3, help="the highest, of a one-cycle schedule"
    )
    parser.add_argument("--weight_decay", type=number(0), default=0.02, help="of AdamW")
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=0, help="of the weights and the order of images")
    add_upload_arguments(parser)
    args = parser.parse_args()
    args.input_size = args.input_size or max(args.resolution, 48)
    return args


def shift(pixels: torch.Tensor) -> torch.Tensor:
    """Move the images by up to a fourteenth of their side: the only augmentation beside flips that small ones bear."""
    size = pixels.shape[-1]
    by = size // 14
    # What comes in from outside: black of grey images, which stand on it, and of others the colour at their border.
    padded = F.pad(pixels, (by,) * 4, mode="constant" if pixels.shape[1] == 1 else "replicate")
    dy, dx = torch.randint(0, 2 * by + 1, (2,)).tolist()
    return padded[..., dy : dy + size, dx : dx + size]


def prepare(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Enlarge and normalise as preprocessor_config.json says below."""
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return (pixels * 2 - 1).to(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model, loader, size: int) -> float:
    model.eval()
    correct = total = 0
    for batch in loader:
        correct += (model(prepare(batch["pixel_values"], size)).logits.argmax(-1) == batch["labels"]).sum().item()
        total += len(batch["labels"])
    return correct / total


def main():
    args = parse_args()
    end_with_launcher()
    check_stages(args.hidden_sizes, args.depths)
    writable_folder(args.output_dir)
    check_uploads(args)
    accelerator = Accelerator()
    warn_of_idle_cores(accelerator)
    set_seed(args.seed)
    if args.label_column is None:
        raise ValueError("a classifier learns labels: name their column with --label_column.")
    dataset = images_of(args)
    names = label_names(dataset, args.label_column)
    if names is None:
        raise ValueError(f"--label_column {args.label_column} has no names of classes: a classifier stores them.")
    train, tests = train_and_test(args, dataset, names)
    num_channels = args.num_channels or num_channels_of(train, args.image_column)
    transform = ImageTransform(args.resolution, num_channels, args.image_column, args.label_column)
    loader = DataLoader(ReadableImages(train, transform), args.train_batch_size, shuffle=True, drop_last=True)
    if len(loader) < accelerator.num_processes:
        raise ValueError(f"{len(train)} images do not fill one batch of {args.train_batch_size} per process.")
    if accelerator.is_main_process:
        open_upload(args)
    described = ", ".join(f"{len(images):,} ({what})" for what, images in tests.items())
    accelerator.print(f"{len(train):,} images to train on, {described} to test on, {len(names)} classes")

    config = RegNetConfig(
        num_channels=num_channels,
        embedding_size=32,
        hidden_sizes=args.hidden_sizes,
        depths=args.depths,
        groups_width=32,
        layer_type="y",
        downsample_in_first_stage=False,  # the stem halves the image already
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    require_memory(lambda: RegNetForImageClassification(config))
    model = RegNetForImageClassification(config)
    model = model.to(memory_format=torch.channels_last)  # a third faster on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    steps = args.num_train_epochs * len(loader)
    lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=steps + 1)
    model, optimizer, loader, lr_scheduler = accelerator.prepare(model, optimizer, loader, lr_scheduler)

    start = time.time()
    with tqdm(total=steps, disable=not accelerator.is_local_main_process) as progress:
        for epoch in range(args.num_train_epochs):
            for batch in loader:
                pixels = random_flip(batch["pixel_values"]) if args.random_flip else batch["pixel_values"]
                logits = model(prepare(shift(pixels), args.input_size)).logits
                loss = F.cross_entropy(logits, batch["labels"], label_smoothing=0.05)
                accelerator.backward(loss)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
                progress.update()
            require_finite({"the loss": loss.item()}, (epoch + 1) * len(loader))
            progress.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}")

    if accelerator.is_main_process:
        model = plain_model(accelerator, model)
        require_finite_weights(model, steps)
        model.cpu()
        tested_on = {}
        for what, images in tests.items():
            loader = DataLoader(ReadableImages(images, transform), args.train_batch_size)
            tested_on[what] = {"images": len(images), "accuracy": accuracy(model, loader, args.input_size)}
        result = {
            "test_accuracy": next(iter(tested_on.values()))["accuracy"],
            "tested_on": tested_on,
            "train_images": len(train),
            "parameters": sum(p.numel() for p in model.parameters()),
            "epochs": args.num_train_epochs,
            "seed": args.seed,
            "wall_time_s": round(time.time() - start),
        }
        card = judge_card(args, names, result)
        save_judge(args.output_dir, model, args.input_size, num_channels, result, card)
        print(json.dumps(result))
        upload(args, args.output_dir)
    end_training(accelerator)


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
