"""Sizes in a model's config that no model has: refused before memory is asked for."""

from __future__ import annotations

from numbers import Integral

from ..messages import shown


LARGEST = 2**24  # entries, classes, positions, features
MOST_LAYERS = 1_000


def check_sizes(**sizes: int | None) -> None:
    """
    Refuse sizes, by their names in the config, that are no positive whole numbers or beyond all models there are.

    Such a config is damaged or mistyped, and a billion layers would be built until memory ends.

    Raises:
        ValueError: names the first such size.
    """
    for name, size in sizes.items():
        largest = MOST_LAYERS if name.endswith("layers") else LARGEST
        if size is None:
            continue
        if not isinstance(size, Integral) or isinstance(size, bool) or not 1 <= size <= largest:
            raise ValueError(f"`{name}` has to be a whole number from 1 to {largest:,}, but is {shown(size)}.")
