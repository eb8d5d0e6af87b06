"""A second suite sees the same images, and gives what an evaluation by itself would."""

import pytest
import torch

from diffusers_autonat.metrics import (
    EvaluationCheckpoint,
    Evaluator,
    MetricSuite,
    compute_reference,
    knows_classes,
    load_extractor,
)
from tests.conftest import save_tiny_classifier


@pytest.fixture
def suites(tmp_path, fashion_mnist):
    """Two extractors of other weights, other sizes of batches."""
    made = []
    for seed, batch_size in ((0, 8), (1, 6)):
        save_tiny_classifier(tmp_path / str(seed), seed=seed)
        extractor = load_extractor(str(tmp_path / str(seed)), batch_size=batch_size)
        reference = compute_reference([(torch.from_numpy(image)[None], None) for image in fashion_mnist[0]], extractor)
        made.append(MetricSuite.of_distance(extractor, reference, 4))
    return made


def evaluator(pipe, suite, second=None):
    return Evaluator(pipe, suite.extractor, suite.reference, suite.metrics, progress=False, second=second)


def test_a_second_suite_gives_what_it_would_by_itself(pipe, suites):
    first, second = suites
    assert first.metrics == ("fid", "class", "fid_error")
    alone = evaluator(pipe, first)(21, seed=3)
    both = evaluator(pipe, first, second)(21, seed=3)
    assert {name: both[name] for name in alone} == alone
    images = []
    make_images, requests = evaluator(pipe, first).generation(21, 3)
    evaluation = evaluator(pipe, first).measure(
        make_images, requests, [21], on_images=lambda *seen: images.append(seen)
    )
    assert dict(evaluation)[21] == alone
    pixels = torch.cat([part for part, _, _ in images])
    [(_, expected)] = evaluator(pipe, second).measure(lambda indices, _: pixels[indices % 21], requests, [21])
    assert {name.removeprefix("second_"): v for name, v in both.items() if name.startswith("second_")} == expected


def test_a_checkpoint_keeps_both(pipe, suites, tmp_path):
    expected = evaluator(pipe, *suites)(24, seed=3)
    make_images, requests = evaluator(pipe, *suites).generation(24, 3)

    def broken(indices, asked):
        if indices[0] == 16:
            raise KeyboardInterrupt
        return make_images(indices, asked)

    both = evaluator(pipe, *suites)
    both.batch_size = 8
    with pytest.raises(KeyboardInterrupt):
        list(both.measure(broken, requests, [24], checkpoint=EvaluationCheckpoint(tmp_path / "state", {"a": 1}, 0)))
    [(_, found)] = both.measure(
        make_images, requests, [24], checkpoint=EvaluationCheckpoint(tmp_path / "state", {"a": 1}, 0)
    )
    assert both.resumed_images == 16 and found == expected


def test_classes_are_known_by_a_classifier_of_as_many(suites):
    extractor = suites[0].extractor
    assert knows_classes(extractor, 4) and not knows_classes(extractor, 5) and not knows_classes(extractor, None)
    assert MetricSuite.of_distance(extractor, suites[0].reference, None, "kid").metrics == ("kid", "kid_error")
