import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from diffusers_autonat.metrics import ClassRecognition, uniform_labels


NAMES = {label: f"thing: {label}" for label in range(10)}


def test_the_shares_are_torchmetrics_and_classes_nobody_asked_for_are_left_out():
    labels = uniform_labels(300, 10)
    logits = 2 * torch.nn.functional.one_hot(labels, 10) + torch.randn(
        300, 10, generator=torch.Generator().manual_seed(0)
    )
    logits, labels = logits[labels != 4], labels[labels != 4]
    metric, expected = ClassRecognition(NAMES), MulticlassAccuracy(10, average="none")
    for rows in torch.arange(len(labels)).split(64):
        metric.update(logits[rows], labels[rows])
        expected.update(logits[rows], labels[rows])
    values, shares = metric.compute(), expected.compute()
    assert list(values) == [f"recognised: thing: {label}" for label in range(10) if label != 4]
    for label in set(range(10)) - {4}:
        assert values[f"recognised: thing: {label}"].item() == pytest.approx(shares[label].item())
    assert 0 < min(values.values()) < max(values.values())
