#!/usr/bin/env python
r"""Train a network that says which caption an image shows: the judge of text-to-image models (`evaluate --metrics r_precision`).

    diffusers-autonat train text-judge --dataset_name outputs/icons --resolution 32 --text_encoder ENCODER \
        --test_split unseen_pairs unseen_things --output_dir outputs/text-judge

A small ConvNeXt learns to put images where a frozen text encoder, through a linear projection, puts their captions (the contrastive
loss of CLIP, arXiv:2103.00020). Give it real training images alone. The result, `judge`, is a `VisionTextDualEncoderModel` of
transformers without the text encoder, which stays where it is: `model.text_model = AutoModel.from_pretrained(ENCODER)`.
Resume: `--resume_from_checkpoint latest`.
"""

import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import ConvNextConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from diffusers_autonat.command_line import Parser, number, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.image_datasets import ImageTransform, ReadableImages, num_channels_of
from diffusers_autonat.launcher import end_with_launcher
from diffusers_autonat.loading import load_text_encoder
from diffusers_autonat.metrics import CANDIDATES, r_precision
from diffusers_autonat.metrics.captions import find_caption_column
from diffusers_autonat.provenance import model_hash
from diffusers_autonat.training.checkpoints import Checkpoints, check_resume
from diffusers_autonat.training.checks import (
    require_finite,
    require_finite_weights,
    require_memory,
    warn_of_idle_cores,
    writable_folder,
)
from diffusers_autonat.training.data import add_data_arguments, add_test_arguments, images_of, train_and_test
from diffusers_autonat.training.folder_lock import hold_folder
from diffusers_autonat.training.judges import check_stages, save_judge
from diffusers_autonat.training.loop import MAX_SEED, History, endless_batches, seed_step
from diffusers_autonat.training.prepared import plain_model
from diffusers_autonat.training.process_group import end_training


NUMBER = "number of the image"  # a column: which captions it has
HOTTEST = math.log(100)  # of the scale of similarities, as in CLIP


def parse_args():
    parser = Parser(description=__doc__)
    add_data_arguments(parser, captions=True)
    add_test_arguments(parser)
    parser.add_argument("--output_dir", required=True, help="folder of checkpoints and, in the end, judge")
    parser.add_argument(
        "--resolution", type=whole(16, 16384), default=64, help="side that images are scaled and cropped to"
    )
    parser.add_argument(
        "--text_encoder", required=True, help="folder or Hub id of a text model with a pooled state: BERT, CLIP"
    )
    parser.add_argument("--projection_dim", type=whole(1, 65536), default=128, help="of the space of images and texts")
    parser.add_argument(
        "--hidden_sizes", type=whole(1, 65536), nargs="+", default=[64, 128, 256], help="width of each stage"
    )
    parser.add_argument("--depths", type=whole(1, 1000), nargs="+", default=[2, 2, 2], help="blocks of each stage")
    parser.add_argument("--num_train_epochs", type=positive, default=60, help="times that all images are seen")
    parser.add_argument(
        "--train_batch_size", type=positive, default=256, help="per process; each image is told from the others"
    )
    parser.add_argument(
        "--learning_rate", type=number(0, 1e20), default=2e-3, help="the highest, of a one-cycle schedule"
    )
    parser.add_argument("--weight_decay", type=number(0), default=0.05, help="of AdamW")
    parser.add_argument(
        "--seed", type=whole(0, MAX_SEED), default=0, help="of the weights, the order of images and what is drawn"
    )
    parser.add_argument("--checkpointing_steps", type=positive, default=200, help="save the training so often")
    parser.add_argument("--resume_from_checkpoint", help="a checkpoint folder, or 'latest'")
    parser.add_argument("--logging_steps", type=positive, default=20, help="log so often")
    return parser.parse_args()


class Pairs(torch.nn.Module):
    """Images and texts in one space; texts come as the pooled states of their encoder, which are computed once."""

    def __init__(self, judge: VisionTextDualEncoderModel):
        super().__init__()
        self.judge = judge
        self.judge.text_model = torch.nn.Identity()

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.judge.vision_model(pixel_values=pixels * 2 - 1).pooler_output  # as preprocessor_config.json says
        return F.normalize(self.judge.visual_projection(states), dim=-1)

    def embed_texts(self, pooled: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.judge.text_projection(pooled), dim=-1)

    def forward(self, pixels: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """How well image i `[B, C, H, W]` and text j `[B, D]` fit: `[B, B]`."""
        return self.judge.logit_scale.exp() * self.embed_images(pixels) @ self.embed_texts(pooled).T


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Turn each image by up to 10 degrees, and scale and move it by up to a tenth; the border is repeated."""
    angle, zoom, x, y = (torch.rand(4, len(pixels), device=pixels.device) * 2 - 1).unbind()
    zoom = 1 + zoom / 10
    cos, sin = zoom * (angle * math.pi / 18).cos(), zoom * (angle * math.pi / 18).sin()
    matrix = torch.stack([cos, -sin, x / 10, sin, cos, y / 10], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def captions_of(dataset: Dataset, column: str) -> list[list[str]]:
    """The captions of each image, one or more."""
    captions = [[texts] if isinstance(texts, str) else list(texts or []) for texts in dataset[column][:]]
    if lacking := [i for i, texts in enumerate(captions) if not all(texts) or not texts]:
        raise ValueError(f"image {lacking[0]} has no caption in the column {column}, {len(lacking)} in all.")
    return captions


@torch.no_grad()
def pooled_states(texts: list[str], text_encoder, tokenizer, device: torch.device) -> torch.Tensor:
    """`[len(texts), D]`"""
    states = []
    for first in tqdm(range(0, len(texts), 128), desc="text states", disable=len(texts) < 1000):
        inputs = tokenizer(texts[first : first + 128], padding=True, truncation=True, return_tensors="pt").to(device)
        output = text_encoder(**inputs)
        if getattr(output, "pooler_output", None) is None:
            raise ValueError(
                f"--text_encoder: {type(text_encoder).__name__} has no pooled state of a text; take a BERT or CLIP."
            )
        states.append(output.pooler_output.float())
    return torch.cat(states)


def build_judge(args, num_channels: int, text_encoder) -> VisionTextDualEncoderModel:
    vision_config = ConvNextConfig(
        num_channels=num_channels, image_size=args.resolution, patch_size=max(1, args.resolution // 16),
        num_stages=len(args.depths), hidden_sizes=args.hidden_sizes, depths=args.depths, layer_scale_init_value=0.1,
        hidden_size=args.hidden_sizes[-1],  # where a network of two towers looks for it
    )  # fmt: skip
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision_config, text_encoder.config, projection_dim=args.projection_dim
    )
    config.text_encoder_hash = model_hash(text_encoder)
    config.text_config._name_or_path = (
        Path(args.text_encoder).resolve().name if Path(args.text_encoder).exists() else args.text_encoder
    )
    require_memory(lambda: VisionTextDualEncoderModel(config, text_model=text_encoder))
    return VisionTextDualEncoderModel(config, text_model=text_encoder)


@torch.no_grad()
def measure(
    pairs: Pairs, images: ReadableImages, captions: list[list[str]], states, batch_size: int
) -> dict[str, float]:
    """R-precision of real images, among 100 captions or as many as there are."""
    device = next(pairs.parameters()).device
    shown, asked = [], []
    for batch in DataLoader(images, batch_size):
        shown.append(pairs.embed_images(batch["pixel_values"].to(device)))
        asked += [captions[number][0] for number in batch["labels"].tolist()]
    texts = pairs.embed_texts(states(list(dict.fromkeys(asked))))
    rows = dict(zip(dict.fromkeys(asked), texts))
    candidates = min(CANDIDATES, len(texts.unique(dim=0)))
    found = r_precision(torch.cat(shown), torch.stack([rows[text] for text in asked]), candidates)
    return {"images": len(asked), "candidates": candidates, "r_precision": round(found.item(), 4)}


def main():
    args = parse_args()
    end_with_launcher()
    check_stages(args.hidden_sizes, args.depths)
    writable_folder(args.output_dir)
    check_resume(args.output_dir, args.resume_from_checkpoint)
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    warn_of_idle_cores(accelerator)
    if accelerator.is_main_process:
        hold_folder(args.output_dir)
    set_seed(args.seed)

    # 1. Images, captions, and what the text encoder says of them
    args.label_column = None
    dataset = images_of(args)
    column = args.caption_column or find_caption_column(dataset)
    train, tests = train_and_test(args, dataset)
    num_channels = num_channels_of(train, args.image_column)
    transform = ImageTransform(args.resolution, num_channels, args.image_column, NUMBER)

    def numbered(images: Dataset) -> ReadableImages:
        return ReadableImages(images.add_column(NUMBER, list(range(len(images)))), transform)

    captions = captions_of(train, column)
    text_encoder, tokenizer = load_text_encoder(args.text_encoder)
    text_encoder.to(accelerator.device)
    texts = list(dict.fromkeys(text for some in captions for text in some))
    pooled = pooled_states(texts, text_encoder, tokenizer, accelerator.device)
    number_of = {text: number for number, text in enumerate(texts)}
    loader = DataLoader(numbered(train), args.train_batch_size, shuffle=True, drop_last=True)
    if len(loader) < accelerator.num_processes:
        raise ValueError(f"{len(train)} images do not fill one batch of {args.train_batch_size} per process.")
    described = ", ".join(f"{len(images):,} ({what})" for what, images in tests.items())
    accelerator.print(f"{len(train):,} images to train on, {described} to test on, {len(texts):,} captions")

    # 2. Judge and optimiser
    pairs = Pairs(build_judge(args, num_channels, text_encoder))
    optimizer = torch.optim.AdamW(pairs.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    max_steps = args.num_train_epochs * (len(loader) // accelerator.num_processes)
    lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=max_steps * accelerator.num_processes + 1
    )
    pairs, optimizer, loader, lr_scheduler = accelerator.prepare(pairs, optimizer, loader, lr_scheduler)
    plain = plain_model(accelerator, pairs)
    parts = {"judge": pairs, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    checkpoints = Checkpoints(accelerator, args.output_dir, parts, total_limit=2)
    first_step = checkpoints.resume(args.resume_from_checkpoint, max_steps)
    history = History(Path(args.output_dir, "history.jsonl"), first_step, accelerator.is_main_process)

    # 3. Training: each image is told from the others of its batch by its caption, and each caption from theirs
    progress = tqdm(total=max_steps, initial=first_step, disable=not accelerator.is_local_main_process)
    batches = endless_batches(loader, first_step)
    start = time.time()
    for step in range(first_step + 1, max_steps + 1):
        batch = next(batches)
        seed_step(args.seed, step, accelerator.process_index)
        drawn = [captions[i][int(torch.randint(len(captions[i]), ()))] for i in batch["labels"].tolist()]
        numbers = torch.tensor([number_of[text] for text in drawn], device=accelerator.device)
        logits = pairs(augment(batch["pixel_values"]), pooled[numbers]).float()
        same = numbers[:, None] == numbers  # an image with the same caption is not wrong
        target = same / same.sum(dim=1)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        accelerator.backward(loss)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        with torch.no_grad():
            plain.judge.logit_scale.clamp_(max=HOTTEST)
        progress.update()
        if step % args.logging_steps == 0 or step == max_steps:
            require_finite({"the loss": loss.item()}, step)
            row = {"loss": round(loss.item(), 4), "scale": round(plain.judge.logit_scale.exp().item(), 2)}
            progress.set_postfix(row)
            history.append({"step": step, "seconds": round(time.time() - start, 1), **row})
        if step % args.checkpointing_steps == 0 or step == max_steps:
            checkpoints.save(step)
    progress.close()

    # 4. What real images reach, which generated ones are then compared with
    if accelerator.is_main_process:
        require_finite_weights(plain.judge, max_steps)
        plain.eval()

        def states(some: list[str]) -> torch.Tensor:
            return pooled_states(some, text_encoder, tokenizer, accelerator.device)

        result = {
            "real_images": {
                what: measure(plain, numbered(images), captions_of(images, column), states, args.train_batch_size)
                for what, images in tests.items()
            },
            "train_images": len(train),
            "parameters": sum(p.numel() for p in plain.parameters()),
            "epochs": args.num_train_epochs,
            "seed": args.seed,
            "text_encoder_hash": plain.judge.config.text_encoder_hash,
        }
        save_judge(Path(args.output_dir, "judge"), plain.judge, args.resolution, num_channels, result)
        print(json.dumps(result))
    end_training(accelerator)


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
