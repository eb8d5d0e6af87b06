import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.image.inception import InceptionScore
from transformers import RegNetConfig, RegNetForImageClassification, RegNetModel, ViTImageProcessorPil

from diffusers_autonat.metrics import (
    ClassConsistency,
    ClassifierScore,
    Reference,
    balanced_labels,
    build_metrics,
    load_extractor,
    manifold_scores,
    reference_labels,
    uniform_labels,
)


TINY = {"num_channels": 1, "embedding_size": 4, "depths": [1, 1], "groups_width": 2, "num_labels": 10}


def logits_of(num_images, num_classes=10, seed=0):
    return 4 * torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(seed))


def tiny_extractor(folder, model_class):
    torch.manual_seed(0)
    config = RegNetConfig(**TINY, hidden_sizes=[4, 6])
    model_class(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    return load_extractor(str(folder))


@pytest.fixture
def judge(tmp_path):
    return tiny_extractor(tmp_path / "judge", RegNetForImageClassification)


def reference_for(extractor, num_images=60):
    features = torch.randn(num_images, 6, generator=torch.Generator().manual_seed(1))
    mu, sigma = features.double().mean(0), features.double().T.cov()
    return Reference(mu, sigma, num_images, features, None, extractor.identity())


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


def naive_manifold_scores(fake, real, k):
    """Straight from the papers, one pair at a time."""
    distance = lambda a, b: np.sqrt(((a - b) ** 2).sum())  # noqa: E731

    def radii(points):
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    real_radii, fake_radii = radii(real), radii(fake)
    inside = np.array([[distance(f, r) < radius for r, radius in zip(real, real_radii)] for f in fake])
    recalled = [any(distance(f, r) < radius for f, radius in zip(fake, fake_radii)) for r in real]
    return {
        "precision": inside.any(1).mean(),
        "recall": np.mean(recalled),
        "density": inside.sum() / (k * len(fake)),
        "coverage": inside.any(0).mean(),
    }


def test_manifold_scores_equal_their_definitions():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(70, 3, generator=generator), torch.randn(50, 3, generator=generator) * 0.8 + 0.8
    expected = naive_manifold_scores(fake.double().numpy(), real.double().numpy(), 5)
    assert {key: value.item() for key, value in manifold_scores(fake, real).items()} == pytest.approx(expected)
    assert 0 < expected["precision"] < 1 and 0 < expected["recall"] < 1


def test_manifold_scores_do_not_depend_on_slices():
    """1,100 points need two slices; the same points twice are inside each other's balls."""
    points = torch.randn(1100, 4, generator=torch.Generator().manual_seed(0))
    scores = manifold_scores(points, points)
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    far = manifold_scores(points + 100, points)
    assert sum(far.values()) == 0


def test_manifold_scores_need_more_images_than_neighbours():
    with pytest.raises(ValueError, match="more than 5 images a side: 5, 9"):
        manifold_scores(torch.randn(5, 2), torch.randn(9, 2))


def test_collection_gives_every_metric_what_it_needs_and_survives_saving(judge):
    make = lambda: build_metrics(["fid", "kid", "is", "prdc", "class"], judge, 40, reference_for(judge))  # noqa: E731
    generator = torch.Generator().manual_seed(2)
    data = {
        "features": torch.randn(40, 6, generator=generator),
        "logits": logits_of(40),
        "labels": balanced_labels(40, 10),
        "indices": torch.arange(40),
    }
    whole, killed, resumed = make(), make(), make()
    whole.update(**data)
    killed.update(**{key: value[:17] for key, value in data.items()})
    resumed.load_state_dict(killed.state_dict())
    resumed.update(**{key: value[17:] for key, value in data.items()})
    results = whole.compute()
    assert resumed.compute() == results
    assert set(results) == {
        "frechet_distance", "kernel_distance", "kernel_distance_std", "classifier_score", "classifier_score_std",
        "precision", "recall", "density", "coverage", "class_consistency",
    }  # fmt: skip
    metrics = dict(whole.items(copy_state=False))
    assert metrics["kid"].features is metrics["prdc"].features  # one bank serves both


def test_standard_network_gives_the_standard_names(judge):
    judge.is_standard_inception = True
    metrics = build_metrics(["fid", "kid", "is"], judge, 40, reference_for(judge))
    metrics.update(features=torch.randn(40, 6), logits=logits_of(40), indices=torch.arange(40))
    assert set(metrics.compute()) == {"fid", "kid", "kid_std", "inception_score", "inception_score_std"}


def test_what_cannot_work_is_said_before_the_first_image(judge, tmp_path):
    for names, message in (
        (["fid", "lpips"], "some of fid, kid, is, prdc, class, got fid, lpips"),
        ([], "got none"),
        (["fid"], "compare with a reference"),
    ):
        with pytest.raises(ValueError, match=message):
            build_metrics(names, judge, 40)
    with pytest.raises(ValueError, match="features gives features only"):
        build_metrics(["is"], tiny_extractor(tmp_path / "features", RegNetModel), 40)
    with pytest.raises(ValueError, match="Precision to coverage needs at least 6 features, and memory holds 5"):
        build_metrics(["prdc"], judge, 40, reference_for(judge, 5))
    judge.id2label = None
    with pytest.raises(ValueError, match="classifier of the classes asked for; judge has others"):
        build_metrics(["class"], judge, 40)


@pytest.mark.parametrize(("num_images", "num_classes"), [(15, 10), (10, 10), (1000, 7), (7, 1000), (1, 3)])
def test_balanced_labels(num_images, num_classes):
    labels = balanced_labels(num_images, num_classes)
    counts = labels.bincount(minlength=num_classes)
    assert len(labels) == num_images and counts.max() - counts.min() <= 1
    assert torch.equal(labels[:5], balanced_labels(min(num_images, 5), num_classes))


def test_few_balanced_labels_are_spread_over_the_classes():
    labels = balanced_labels(8, 1000).sort().values
    assert torch.cat([labels, torch.tensor([1000])]).diff().max() < 250


def test_uniform_labels_follow_their_seed_alone():
    torch.manual_seed(0)
    first = uniform_labels(100, 10, seed=5)
    torch.manual_seed(1)
    assert torch.equal(first, uniform_labels(100, 10, seed=5))
    assert not torch.equal(first, uniform_labels(100, 10, seed=6))
    assert torch.equal(first[:33], uniform_labels(33, 10, seed=5))
    assert set(uniform_labels(1000, 10).tolist()) == set(range(10))


def test_reference_labels_keep_the_proportions():
    labels = torch.tensor([2] * 30 + [0] * 60 + [1] * 10)
    reference = Reference(torch.zeros(1), torch.ones(1, 1), labels=labels, source="photos")
    assert reference_labels(50, reference).bincount().tolist() == [30, 5, 15]
    assert reference_labels(10, reference).bincount().tolist() == [6, 1, 3]
    assert torch.equal(reference_labels(7, reference), reference_labels(150, reference)[:7])
    assert reference_labels(200, reference).bincount().tolist() == [120, 20, 60]
    with pytest.raises(ValueError, match="photos holds no labels"):
        reference_labels(5, Reference(torch.zeros(1), torch.ones(1, 1), source="photos"))
