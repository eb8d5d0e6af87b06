import pytest
import torch
from datasets import Dataset

from diffusers_autonat.training.conditions import ClassCondition, drop_labels
from diffusers_autonat.training.tokens import TokenSetInfo
from tests.conftest import tiny_pipeline


def test_drop_labels():
    torch.manual_seed(0)
    labels = drop_labels(torch.zeros(20_000, dtype=torch.long), null_class=7, probability=0.15)
    assert set(labels.tolist()) == {0, 7} and (labels == 7).float().mean().item() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(
    "names, labels, num_classes",
    [(["cat", "dog", "crane"], [0, 1], 3), (None, [0, 4, 1], 5), (None, [-1, -1], 1), ([], [0, 1], 2)],
)
def test_the_classes_of_a_token_set(names, labels, num_classes):
    tokens = Dataset.from_dict({"input_ids": [[0]] * len(labels), "label": labels})
    condition = ClassCondition.of(tokens, TokenSetInfo("", 16, 7, 28, False, names, 1), 0.15)
    assert condition.num_classes == num_classes
    assert condition.id2label == (dict(enumerate(names)) if names else None)
    dropped = [condition.batch({"class_labels": torch.tensor(labels)})["class_labels"].max() for _ in range(100)]
    assert max(dropped) == num_classes  # the null class


def test_its_pipeline_and_samples():
    tiny = tiny_pipeline()
    condition = ClassCondition(4, id2label={0: "cat", 1: "dog", 2: "crane", 3: "bird"})
    pipeline = condition.pipeline(tiny.vqvae, tiny.transformer, tiny.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    grid = condition.samples(pipeline, seed=0)
    assert pipeline.id2label[2] == "crane" and grid.size == (4 * 28, 4 * 28)
    assert (
        grid.tobytes()
        == condition.samples(pipeline, seed=0).tobytes()
        != condition.samples(pipeline, seed=1).tobytes()
    )
