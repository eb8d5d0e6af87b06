import pytest
import torch
from torchmetrics import Metric
from transformers import RegNetConfig, RegNetForImageClassification, RegNetModel, ViTImageProcessorPil

from diffusers_autonat.metrics import (
    METRICS,
    Reference,
    RegisteredMetric,
    balanced_labels,
    build_metrics,
    load_extractor,
)
from diffusers_autonat.metrics.registry import check_num_images, metric_of
from tests.metrics.test_scores import logits_of


TINY = {"num_channels": 1, "embedding_size": 4, "depths": [1, 1], "groups_width": 2, "num_labels": 10}


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


def test_collection_gives_every_metric_what_it_needs_and_survives_saving(judge):
    make = lambda: build_metrics(["fid", "kid", "is", "prdc", "class"], judge, 40, reference_for(judge))  # noqa: E731
    generator = torch.Generator().manual_seed(2)
    data = {
        "features": torch.randn(40, 6, generator=generator),
        "logits": logits_of(40),
        "class_labels": balanced_labels(40, 10),
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
        (["fid", "lpips"], "kid_error, is, prdc, class, per_class, r_precision, got fid, lpips"),
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


@pytest.mark.parametrize("standard", [False, True])
def test_every_value_is_known_by_its_metric(judge, standard):
    """So that reports with it can be compared."""
    judge.is_standard_inception = standard
    of_images = {name: registered for name, registered in METRICS.items() if not registered.needs_prompts}
    for name, registered in of_images.items():
        metric = build_metrics([name], judge, 40, reference_for(judge))
        labels, indices = balanced_labels(40, 10), torch.arange(40)
        metric.update(features=torch.randn(40, 6), logits=logits_of(40), class_labels=labels, indices=indices)
        values = metric.compute()
        assert values and all(metric_of(value) is registered for value in values)
    assert metric_of("no such value") is None


class Brightest(Metric):
    """The largest feature: all that a new metric takes."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("largest", torch.tensor(-torch.inf), dist_reduce_fx="max", persistent=True)

    def update(self, features):
        self.largest = torch.maximum(self.largest, features.max())

    def compute(self):
        return {"largest_feature": self.largest}


def test_a_new_metric_is_one_entry(judge, monkeypatch):
    entry = RegisteredMetric(
        lambda extractor, num_images, reference: Brightest(), ("largest_feature",), least_images=9
    )
    monkeypatch.setitem(METRICS, "largest", entry)
    metrics = build_metrics(["largest", "class"], judge, 40)
    features = torch.randn(40, 6)
    metrics.update(features=features, logits=logits_of(40), class_labels=balanced_labels(40, 10), indices=None)
    assert metrics.compute()["largest_feature"] == features.max()
    check_num_images(["class", "largest"], 9, 6)
    with pytest.raises(ValueError, match="8 image.s. are too few: largest needs at least 9"):
        check_num_images(["class", "largest"], 8, 6)
    with pytest.raises(ValueError, match="kid has to compare with a reference: give one"):
        build_metrics(["largest", "kid"], judge, 40)
