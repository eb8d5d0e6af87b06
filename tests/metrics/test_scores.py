import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.image.inception import InceptionScore

from diffusers_autonat.metrics import ClassConsistency, ClassifierScore, balanced_labels, uniform_labels


def logits_of(num_images, num_classes=10, seed=0):
    return 4 * torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(seed))


def test_classifier_score_equals_torchmetrics():
    logits = logits_of(200)
    score = ClassifierScore(10, 200, splits=1)
    score.update(logits, torch.arange(200))
    expected = InceptionScore(nn.Identity(), splits=1)
    expected.update(logits)
    result = score.compute()
    assert result["classifier_score"].item() == pytest.approx(expected.compute()[0].item(), rel=1e-5)
    assert result["classifier_score_std"] == 0


def test_classifier_score_of_certain_and_of_useless_predictions():
    labels = balanced_labels(1000, 10)
    for scale, expected in ((1000.0, 10.0), (0.0, 1.0)):
        score = ClassifierScore(10, 1000, splits=1)
        score.update(scale * nn.functional.one_hot(labels).float(), torch.arange(1000))
        assert score.compute()["classifier_score"].item() == pytest.approx(expected, rel=1e-8)


def test_splits_mix_labels_that_repeat_regularly():
    score = ClassifierScore(10, 1000, splits=10)
    score.update(1000.0 * nn.functional.one_hot(balanced_labels(1000, 10)).float(), torch.arange(1000))
    assert torch.equal(score.count, torch.full((10,), 100.0, dtype=torch.float64))
    assert score.compute()["classifier_score"] > 9


def test_classifier_score_does_not_depend_on_batches_or_order():
    logits, results = logits_of(101), set()
    for batch_size in (1, 7, 101):
        score = ClassifierScore(10, 101)
        for rows in torch.randperm(101).split(batch_size):
            score.update(logits[rows], rows)
        results.add(tuple(v.item() for v in score.compute().values()))
    assert len(results) == 1


def test_missing_images_are_noticed():
    score = ClassifierScore(10, 100)
    score.update(logits_of(5), torch.arange(5))
    with pytest.raises(ValueError, match="Only 5 of 100"):
        score.compute()


def test_class_consistency_equals_torchmetrics():
    logits, labels = logits_of(200), uniform_labels(200, 10)
    metric, expected = ClassConsistency(), MulticlassAccuracy(10, average="micro")
    for rows in torch.arange(200).split(64):
        metric.update(logits[rows], labels[rows])
        expected.update(logits[rows], labels[rows])
    assert metric.compute()["class_consistency"].item() == pytest.approx(expected.compute().item())
