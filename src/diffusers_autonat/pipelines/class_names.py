"""Classes by name or by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from ..messages import shown
from ..strategies import is_list


ClassLabels: TypeAlias = int | str | Sequence[int | str] | torch.Tensor


class ClassNames:
    """
    The names of a pipeline's classes.

    Args:
        id2label: Class ids, also as strings, as JSON makes them, to names; a name may list synonyms separated by commas.
    """

    def __init__(self, id2label: Mapping[int | str, str] | None):
        self.id2label = {int(key): name for key, name in (id2label or {}).items()}
        self._label2ids: dict[str, list[int]] = {}
        for class_id, names in self.id2label.items():
            for name in {names, *names.split(",")}:
                self._label2ids.setdefault(name.strip().lower(), []).append(class_id)

    def ids(self, class_labels: ClassLabels, num_classes: int) -> list[int]:
        """Class ids of ids and names (any case), as a list.

        Raises:
            ValueError: none is given, an id is out of range (`num_classes` itself is the null class: no class), or a
                name is unknown or stands for several classes.
        """
        if isinstance(class_labels, (torch.Tensor, np.ndarray)):
            class_labels = class_labels.tolist()
        labels = class_labels if is_list(class_labels) else [class_labels]
        if not labels:
            raise ValueError("class_labels is empty: name at least one class.")
        ids = []
        for label in labels:
            class_id = self._id_of(label) if isinstance(label, str) else label
            if isinstance(class_id, (torch.Tensor, np.ndarray)) and class_id.ndim == 0:
                class_id = class_id.item()
            if (
                isinstance(class_id, bool)
                or not isinstance(class_id, (int, np.integer))
                or not 0 <= class_id <= num_classes
            ):
                raise ValueError(
                    f"class id {shown(label)} does not exist: ids are 0 to {num_classes - 1}, and {num_classes} for no class."
                )
            ids.append(int(class_id))
        return ids

    def _id_of(self, name: str) -> int:
        found = self._label2ids.get(name.strip().lower(), [])
        if len(found) > 1:
            raise ValueError(f"class name {name!r} stands for the ids {found}; pass one of the ids.")
        if not found:
            names = list(self.id2label.values())
            known = ", ".join(map(repr, names[:10])) or "none: the pipeline has no id2label"
            raise ValueError(f"unknown class name {shown(name)}; known are {known}{', ...' * (len(names) > 10)}.")
        return found[0]


class ClassNamesMixin:
    """For pipelines with classes: `id2label` as a component and as an attribute, ids by name."""

    transformer: Any

    def _register_classes(self, id2label: Mapping[int | str, str] | None) -> None:
        # JSON turns integer keys into strings; the pipeline is saved and loaded with strings, and used with integers.
        saved = None if id2label is None else {str(key): name for key, name in id2label.items()}
        self.register_to_config(id2label=saved)  # type: ignore[attr-defined]
        self._class_names = ClassNames(id2label)
        self.id2label = self._class_names.id2label

    @property
    def components(self) -> dict[str, Any]:
        """What another pipeline is made of: `AutoNATPipeline(**pipe.components)`; class names included."""
        return super().components | ({"id2label": self.id2label} if self.id2label else {})  # type: ignore[misc]

    def get_label_ids(self, class_labels: ClassLabels) -> list[int]:
        """Class ids of ids and names, see [`ClassNames.ids`]."""
        return self._class_names.ids(class_labels, self.transformer.config.num_classes)
