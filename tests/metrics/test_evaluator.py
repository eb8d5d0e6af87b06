"""The laws of evaluation: what a number may and may not depend on."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.metrics import (
    EvaluationCheckpoint,
    Evaluator,
    Reference,
    Requests,
    compute_reference,
    load_extractor,
)
from diffusers_autonat.metrics.extractors.base import to_uint8
from tests.conftest import save_tiny_classifier, tiny_pipeline


NAMES = ("fid", "kid", "is", "prdc", "class")
COUNTS = [15, 45, 75]  # none a multiple of the 32 images of a call


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    """A small random classifier of the tiny pipeline's four classes."""
    folder = str(tmp_path_factory.mktemp("judge"))
    save_tiny_classifier(folder)
    return folder


@pytest.fixture(scope="module")
def extractor(judge_folder):
    return load_extractor(judge_folder)


@pytest.fixture(scope="module")
def reference(extractor, fashion_mnist):
    samples = [(torch.from_numpy(image)[None], int(label) % 4) for image, label in zip(*fashion_mnist)]
    return compute_reference(samples, extractor, feature_rows=64)


def evaluate(extractor, reference, images=None, **options):
    """Values at COUNTS of the tiny pipeline's images, which `images` collects by index."""

    def collect(batch, labels, indices):
        images.update({int(i): (image, int(label)) for i, image, label in zip(indices, batch, labels)})

    rungs = options.pop("rungs", COUNTS)
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, NAMES, progress=False, **options)
    return dict(evaluator.rungs(rungs, seed=3, num_inference_steps=4, on_images=None if images is None else collect))


@pytest.fixture(scope="module")
def expected(extractor, reference):
    images = {}
    return evaluate(extractor, reference, images), images


def test_values_and_images(expected):
    values, images = expected
    assert list(values) == COUNTS and sorted(images) == list(range(75))
    assert values[75].keys() > {"frechet_distance", "kernel_distance", "classifier_score", "class_consistency"}
    assert values[15]["frechet_distance"] != values[75]["frechet_distance"]
    # Streams differ, so no two images are equal.
    assert len({image.numpy().tobytes() for image, _ in images.values()}) == 75
    counts = torch.tensor([label for _, label in images.values()]).bincount()
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("batch_size", [1, 70])
def test_batch_size_does_not_matter(batch_size, extractor, reference, expected):
    images = {}
    assert evaluate(extractor, reference, images, batch_size=batch_size) == expected[0]
    assert all(torch.equal(images[i][0], expected[1][i][0]) for i in range(75))


def test_a_rung_is_what_a_run_of_its_own_gives(extractor, reference, expected):
    images = {}
    assert evaluate(extractor, reference, images, rungs=[45]) == {45: expected[0][45]}
    assert sorted(images) == list(range(45))
    assert all(torch.equal(images[i][0], expected[1][i][0]) for i in range(45))


class Recording:
    """A pipeline that notes what it is called with."""

    def __init__(self):
        self.pipe, self.calls = tiny_pipeline(), []
        self.transformer, self.device = self.pipe.transformer, self.pipe.device
        self.set_progress_bar_config = self.pipe.set_progress_bar_config

    def __call__(self, class_labels, **options):
        self.calls.append({"labels": class_labels, **options})
        return self.pipe(class_labels, **options)


def test_calls_have_one_shape_and_stop_with_the_reader(extractor, reference):
    pipe = Recording()
    evaluator = Evaluator(pipe, extractor, reference, batch_size=1, progress=False)
    strategy = GenerationStrategy.cosine(2)
    assert next(evaluator.rungs([15, 75], strategy=strategy))[0] == 15
    assert [len(call["generator"]) for call in pipe.calls] == [32]
    values = evaluator(33, strategy=strategy)
    assert [len(call["labels"]) for call in pipe.calls[1:]] == [32, 32]
    assert set(values) == {"frechet_distance", "class_consistency"}


def test_the_arguments_reach_the_pipeline(extractor, reference):
    pipe = Recording()
    evaluator = Evaluator(pipe, extractor, reference, ["fid"], progress=False)
    strategy = GenerationStrategy.cosine(2)
    first = evaluator(20, strategy=strategy, guidance_scale=0.5)
    assert evaluator(20, num_inference_steps=4) != first != evaluator(20, seed=1, strategy=strategy)
    keys = ("strategy", "num_inference_steps", "guidance_scale", "output_type")
    options = [tuple(call[key] for key in keys) for call in pipe.calls]
    assert options == [(strategy, None, 0.5, "pt"), (None, 4, 1.0, "pt"), (strategy, None, 1.0, "pt")]
    assert evaluator(20, 0, strategy, None, 0.5) == first


@pytest.mark.parametrize("policy", ["balanced", "uniform", "reference"])
def test_labels_do_not_depend_on_the_number_of_images(policy, extractor, reference):
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, label_policy=policy, progress=False)
    labels = evaluator.conditions.requests(200, seed=1).class_labels
    assert torch.equal(labels[:15], evaluator.conditions.requests(15, seed=1).class_labels) and set(
        labels.tolist()
    ) == {0, 1, 2, 3}
    if policy == "reference":
        assert torch.equal(
            evaluator.conditions.requests(64, seed=0).class_labels.bincount(), reference.labels.bincount()
        )
    assert (policy == "uniform") == (not torch.equal(labels, evaluator.conditions.requests(200, seed=2).class_labels))


def test_images_from_anywhere_are_measured(extractor, reference, fashion_mnist):
    """The reference's own images are at distance 0 from it."""
    images = torch.from_numpy(fashion_mnist[0])[:, None]
    labels = torch.from_numpy(fashion_mnist[1]).long() % 4
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, progress=False)
    ((_, values),) = evaluator.measure(lambda indices, _: images[indices], Requests.of_classes(labels), [64])
    assert values["frechet_distance"] < 1e-9


def test_what_does_not_fit_is_refused_before_the_first_image(extractor, reference):
    pipe = tiny_pipeline()
    three = SimpleNamespace(config=SimpleNamespace(num_classes=3))
    other = SimpleNamespace(transformer=three, set_progress_bar_config=pipe.set_progress_bar_config)
    with pytest.raises(ValueError, match="knows 4 classes and the pipeline has 3"):
        Evaluator(other, extractor, reference)
    with pytest.raises(ValueError, match="holds class 3, the pipeline's last is 2"):
        Evaluator(other, extractor, reference, ["fid"], label_policy="reference").conditions.requests(10, seed=0)
    with pytest.raises(ValueError, match="balanced, uniform, reference, got 'even'"):
        Evaluator(pipe, extractor, reference, label_policy="even")
    with pytest.raises(ValueError, match="batch_size = 0"):
        Evaluator(pipe, extractor, reference, batch_size=0)
    with pytest.raises(ValueError, match="give one"):
        Evaluator(pipe, extractor, None)
    wide = Reference(torch.zeros(9), torch.eye(9), extractor=extractor.identity(), source="wide.npz")
    with pytest.raises(ValueError, match="wide.npz has 9 features, judge0 gives 6"):
        Evaluator(pipe, extractor, wide)
    evaluator = Evaluator(pipe, extractor, reference, progress=False)
    for counts in ([], [1], [20, 10], [10, 10]):
        with pytest.raises(ValueError, match="num_images"):
            next(evaluator.rungs(counts))


def test_too_few_images_are_known_before_the_first(extractor, reference):
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, ["fid", "prdc"], progress=False)

    def not_yet(indices, requests):
        raise NotImplementedError

    with pytest.raises(ValueError, match="5 image.s. are too few: prdc needs at least 6"):
        next(evaluator.measure(not_yet, Requests.of_classes(torch.zeros(32).long()), [5, 20]))
    with pytest.warns(UserWarning, match="6 features is rank-deficient with 6 images.*at least 7"):
        with pytest.raises(NotImplementedError):
            next(evaluator.measure(not_yet, Requests.of_classes(torch.zeros(32).long()), [6, 20]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_extractor_is_an_error(judge_folder, reference, value):
    extractor = load_extractor(judge_folder)
    next(parameter for parameter in extractor.parameters() if parameter.ndim == 4).data.fill_(value)
    with pytest.raises(ValueError, match="makes NaN or infinite features"):
        evaluate(extractor, reference)


def test_a_damaged_transformer_is_an_error(extractor, reference):
    pipe = tiny_pipeline()
    pipe.transformer.head.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="logits are not finite in step 0"):
        Evaluator(pipe, extractor, reference, progress=False)(15, num_inference_steps=4)


def test_images_that_are_no_numbers_are_an_error(extractor, reference):
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, progress=False)
    with pytest.raises(ValueError, match="nan"):
        next(
            evaluator.measure(
                lambda i, _: torch.full((len(i), 1, 28, 28), torch.nan),
                Requests.of_classes(torch.zeros(32).long()),
                [32],
            )
        )


def run_process(rank, world, port, folder, checkpoint_folder, reference, path, kill_at):
    """One of several processes; with `kill_at` the one that comes to this image is killed there."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if world > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world)
    checkpoint = EvaluationCheckpoint(checkpoint_folder, {"seed": 3}, seconds=0)

    def kill(images, labels, indices):
        if kill_at in indices:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluator = Evaluator(tiny_pipeline(), load_extractor(folder), reference, NAMES, batch_size=1, progress=False)
    options = {"seed": 3, "num_inference_steps": 4, "on_images": kill, "checkpoint": checkpoint}
    results = dict(evaluator.rungs(COUNTS, **options))
    with open(f"{path}/{world}-{rank}.pkl", "wb") as file:
        pickle.dump((results, evaluator.resumed_images), file)
    if world > 1:
        dist.destroy_process_group()


def launch(world, *arguments):
    """Run so many processes; as a launcher does, end all when one dies. Returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.metrics.test_evaluator", "transformers.models.regnet.modeling_regnet"])
    workers = [context.Process(target=run_process, args=(rank, world, port, *arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    running = {worker.sentinel: worker for worker in workers}
    while running:
        for sentinel in multiprocessing.connection.wait(list(running), timeout=600):
            worker = running.pop(sentinel)
            worker.join()
            if worker.exitcode:
                for other in running.values():
                    other.kill()
    return [worker.exitcode for worker in workers]


@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2)])
def test_processes_and_interruptions_do_not_matter(first, second, judge_folder, reference, expected, tmp_path):
    """Killed on one number of processes, continued on another, and asked again on a third when all is done."""
    arguments = (judge_folder, str(tmp_path / "state"), reference, str(tmp_path))
    assert -signal.SIGKILL in launch(first, *arguments, 70)
    assert not list(tmp_path.glob("*.pkl"))
    assert launch(second, *arguments, -1) == [0] * second
    assert launch(1, *arguments, -1) == [0]
    for world, rank, resumed in [(second, rank, 64) for rank in range(second)] + [(1, 0, 75)]:
        results, resumed_images = pickle.loads((tmp_path / f"{world}-{rank}.pkl").read_bytes())
        assert results == expected[0] and resumed_images == resumed


def test_a_checkpoint_waits_for_the_images(extractor, reference):
    """What a checkpoint calls done has been handed over, though another thread does it; and its errors arrive."""
    handed, saved = [], []

    def slow(images, labels, indices):
        assert threading.current_thread() is not threading.main_thread() and images.dtype == torch.uint8
        time.sleep(0.1)
        handed.extend(indices.tolist())

    checkpoint = SimpleNamespace(load=lambda *args: set(), is_due=True)
    checkpoint.save = lambda collections, calls: saved.append((len(calls), len(handed)))
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, ["fid"], batch_size=1, progress=False)
    images, requests = torch.rand(96, 1, 28, 28), Requests.of_classes(torch.zeros(96).long())
    make = lambda indices, _: images[indices]  # noqa: E731
    next(evaluator.measure(make, requests, [70], on_images=slow, checkpoint=checkpoint))
    assert saved == [(1, 32), (2, 64), (3, 70)] and handed == list(range(70))

    def full(*args):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        next(evaluator.measure(make, requests, [70], on_images=full))


def test_the_range_is_looked_at_once_a_batch(extractor, reference, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "diffusers_autonat.metrics.evaluator.to_uint8", lambda images: seen.append(len(images)) or to_uint8(images)
    )
    evaluator = Evaluator(tiny_pipeline(), extractor, reference, ["fid"], batch_size=64, progress=False)
    images = torch.rand(96, 1, 28, 28)
    next(evaluator.measure(lambda indices, _: images[indices], Requests.of_classes(torch.zeros(96).long()), [96]))
    assert seen == [64, 32]
