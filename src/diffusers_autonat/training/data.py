"""What training scripts read from the command line about their images, and what they do to them."""

from __future__ import annotations

import sys

import numpy as np
import torch
from datasets import Dataset, IterableDataset

from ..command_line import number, positive
from ..image_datasets import IMAGE, LABEL, has_split, load_images


def random_flip(pixel_values: torch.Tensor) -> torch.Tensor:
    """Mirror each image of `[B, C, H, W]` left to right with probability one half."""
    flip = torch.rand(len(pixel_values), device=pixel_values.device) < 0.5
    return torch.where(flip[:, None, None, None], pixel_values.flip(-1), pixel_values)


def add_data_arguments(parser, captions: bool = False) -> None:
    """The arguments that name the images, the same in every script; `captions`: also that which names their captions."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_name", help="dataset on the Hub, e.g. zalando-datasets/fashion_mnist")
    group.add_argument("--train_data_dir", help="local folder: images (flat, in one sub-folder per class, or named by a "
                       "metadata.csv), Parquet, webdataset's .tar, or IDX files")  # fmt: skip
    group.add_argument("--split", default="train", help="split to read")
    group.add_argument("--image_column", default=IMAGE, help="column of the images")
    group.add_argument("--label_column", type=_column, default=LABEL,
                       help="column of class ids, or of texts, which become classes; 'none' for unlabelled images")  # fmt: skip
    if captions:
        group.add_argument(
            "--caption_column", help="of one text, or a list of texts, for each image; kept with the tokens"
        )
    group.add_argument("--max_train_samples", type=positive, help="use only the first so many images")


def add_test_arguments(parser) -> None:
    """The arguments that say on which images a network is tested, see `train_and_test`."""
    group = parser.add_argument_group("test")
    group.add_argument(
        "--test_split",
        nargs="+",
        help="splits to test on, each by itself; default: 'test', or where there is none a share that is held out",
    )
    group.add_argument(
        "--test_share", type=number(0, 1), default=0.1, help="of the images, where no split is tested on"
    )


def _column(name: str) -> str | None:
    return None if name == "none" else name


def images_of(
    args, split: str | None = None, streaming: bool = False, class_names: list[str] | None = None
) -> Dataset | IterableDataset:
    """
    The images that a script's data arguments name; of another split all of them, whatever `--max_train_samples`, and with the
    `class_names` of the first.

    `args.label_column` becomes None where a folder has images and no labels, which is said.
    """
    dataset = load_images(
        args.dataset_name, args.train_data_dir, split or args.split, args.image_column, args.label_column, streaming,
        args.max_train_samples if split in (None, args.split) else None, getattr(args, "caption_column", None),
        class_names,
    )  # fmt: skip
    if args.label_column == LABEL and dataset.column_names is not None and LABEL not in dataset.column_names:
        print(f"{args.train_data_dir} has no labels: all its images are of one class.", file=sys.stderr)
        args.label_column = None
    return dataset


def train_and_test(args, dataset: Dataset, class_names: list[str] | None = None) -> tuple[Dataset, dict[str, Dataset]]:
    """
    Images to train on, and images to test on by what they are.

    Tested is on the splits that `add_test_arguments` names, or on `test`; where there is none, on a share of `dataset` that is then
    not trained on (`hold_out`).

    Args:
        dataset: `images_of(args)`; `class_names`: its classes.

    Raises:
        ValueError: There is nothing to hold out.
    """
    splits = args.test_split or (["test"] if has_split(dataset, args.train_data_dir, "test") else [])
    if splits:
        return dataset, {split: images_of(args, split, class_names=class_names) for split in splits}
    train, test = hold_out(dataset, args.test_share, args.seed, args.label_column)
    if not len(test):
        raise ValueError(
            "no class has two images, one of which could be held out: name a split to test on with --test_split."
        )
    return train, {f"{args.test_share:.0%} of {args.split}, held out": test}


def hold_out(dataset: Dataset, share: float, seed: int, label_column: str | None = None) -> tuple[Dataset, Dataset]:
    """
    The other images and `share` of those of each class, drawn by `seed`; a class of two or more is in both.

    Args:
        label_column: Of the classes; None where all images are of one.
    """
    labels = np.array(dataset.select_columns(label_column)[label_column][:] if label_column else [0] * len(dataset))
    mixed = np.random.default_rng(seed).permutation(len(dataset))
    classes = labels[mixed]
    is_held_out = np.zeros(len(dataset), bool)
    for label in np.unique(classes):
        rows = mixed[classes == label]
        is_held_out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return dataset.select(np.flatnonzero(~is_held_out)), dataset.select(np.flatnonzero(is_held_out))
