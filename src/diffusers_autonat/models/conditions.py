"""What a transformer is told of its images: refused where it is of the wrong kind or shape."""

from __future__ import annotations

from typing import Any

import torch


def check_condition(
    config: Any, batch_size: int, class_labels: torch.Tensor | None, encoder_hidden_states: torch.Tensor | None
) -> None:
    """
    Raise `ValueError` unless there are classes `[B]` for a model without a `context_dim`, or text states
    `[B, context_length, context_dim]` for one with it. Looks at shapes only, never at values.
    """
    if config.context_dim is None:
        if encoder_hidden_states is not None:
            raise ValueError("This model is class-conditional: `encoder_hidden_states` has to be None.")
        if class_labels is None:
            raise ValueError("This model is class-conditional: `class_labels` is required, but is None.")
        if class_labels.shape != (batch_size,):
            raise ValueError(f"`class_labels` has to be [{batch_size}], but is {list(class_labels.shape)}.")
        return
    if class_labels is not None:
        raise ValueError("This model is text-conditional: `class_labels` has to be None.")
    if encoder_hidden_states is None:
        raise ValueError("This model is text-conditional: `encoder_hidden_states` is required, but is None.")
    wanted = [batch_size, config.context_length, config.context_dim]
    if list(encoder_hidden_states.shape) != wanted:
        raise ValueError(f"`encoder_hidden_states` has to be {wanted}, but is {list(encoder_hidden_states.shape)}.")
