"""What images are asked to be; and that the evaluator knows no kind of condition."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusers_autonat.commands import evaluate
from diffusers_autonat.metrics import (
    LABEL_POLICIES,
    Conditions,
    Evaluator,
    Reference,
    Requests,
    balanced_labels,
    class_conditions,
    compute_reference,
    load_extractor,
    reference_labels,
    uniform_labels,
)
from diffusers_autonat.metrics.image_files import ImageArchive
from tests.conftest import save_tiny_classifier


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


def test_requests_of_some_images():
    requests = Requests(4, {"prompt": ["a", "b", "c", "d"]}, torch.tensor([5, 6, 7, 8]))[torch.tensor([3, 1])]
    assert len(requests) == 2 and requests.arguments == {"prompt": ["d", "b"]}
    assert requests.class_labels.tolist() == [8, 6]
    classes = Requests.of_classes(torch.tensor([2, 0]))
    assert classes.arguments == {"class_labels": [2, 0]} and classes[torch.tensor([1])].arguments["class_labels"] == [
        0
    ]
    assert Requests(3)[torch.tensor([0, 2])].class_labels is None


def test_the_command_knows_all_policies():
    assert evaluate.LABEL_POLICIES == tuple(LABEL_POLICIES)
    for policy in LABEL_POLICIES:
        reference = Reference(torch.zeros(1), torch.ones(1, 1), labels=torch.tensor([0, 1]))
        assert class_conditions(policy, 2, reference).describe() == {"label_policy": policy}
    with pytest.raises(ValueError, match="label_policy 'reference' takes the labels of a reference: give one"):
        class_conditions("reference", 2)


class Prompts(Conditions):
    """Another kind of condition: all that it takes."""

    def requests(self, num_images, seed):
        return Requests(num_images, {"prompt": [f"prompt {i % 3} of {seed}" for i in range(num_images)]})

    def describe(self):
        return {"prompts": "three"}


class TextPipeline:
    """Grey images as bright as the prompt's number says."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls = []

    def set_progress_bar_config(self, disable):
        pass

    def __call__(self, *, prompt, negative_prompt=None, generator, output_type, **options):
        self.calls.append(prompt)
        pixels = torch.stack([torch.rand(1, 28, 28, generator=one) for one in generator])
        return SimpleNamespace(
            images=pixels * torch.tensor([int(text.split()[1]) for text in prompt])[:, None, None, None] / 3
        )


def test_another_kind_of_condition_needs_nothing_of_the_evaluator(tmp_path, fashion_mnist):
    save_tiny_classifier(tmp_path / "judge")
    extractor = load_extractor(str(tmp_path / "judge"))
    reference = compute_reference(((torch.from_numpy(image)[None], None) for image in fashion_mnist[0]), extractor)
    pipeline, archive = TextPipeline(), ImageArchive(tmp_path / "images.npz")
    evaluator = Evaluator(pipeline, extractor, reference, ["fid"], progress=False, conditions=Prompts())
    values = evaluator(40, seed=7, on_images=archive)
    assert [len(call) for call in pipeline.calls] == [32, 32]
    assert pipeline.calls[1][:4] == ["prompt 2 of 7", "prompt 0 of 7", "prompt 1 of 7", "prompt 2 of 7"]
    archive.finish(40)
    with np.load(tmp_path / "images.npz") as file:
        assert len(file["arr_0"]) == 40 and file["arr_1"].tolist() == [-1] * 40
        assert [int(image.max()) > 0 for image in file["arr_0"][:3]] == [False, True, True]
    assert values["frechet_distance"] > 0 and evaluator(40, seed=7) == values
    with pytest.raises(ValueError, match="it knows 4 classes and none is asked for: .* leave class out"):
        Evaluator(pipeline, extractor, reference, ["fid", "class"], conditions=Prompts())


def test_the_class_metric_needs_the_class_of_images_from_anywhere(tmp_path, pipe):
    save_tiny_classifier(tmp_path / "judge")
    evaluator = Evaluator(pipe, load_extractor(str(tmp_path / "judge")), None, ["class"], progress=False)
    with pytest.raises(ValueError, match="class needs the class of each image, and they have none"):
        next(evaluator.measure(lambda *_: pytest.fail("made"), Requests(32), [32]))
