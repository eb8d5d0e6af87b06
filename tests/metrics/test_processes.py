"""The same images give the same number on one, two and three processes, bit by bit."""

import multiprocessing
import os
import pickle
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessorPil

from diffusers_autonat.metrics import balanced_labels, build_metrics, compute_reference, load_extractor


TINY = {"num_channels": 1, "embedding_size": 4, "depths": [1, 1], "groups_width": 2, "num_labels": 10}
NAMES = ["fid", "kid", "is", "prdc", "class"]


def evaluate(folder, images, num_images, rank=0, world_size=1, batch_size=64):
    """Measure this process's share of the images, dealt out at random; of 7 images the last of three gets none."""
    extractor = load_extractor(folder)
    reference = compute_reference([(image, None) for image in images], extractor, feature_rows=64)
    metrics = build_metrics(NAMES, extractor, num_images, reference)
    labels = balanced_labels(num_images, 10)
    takers = world_size if num_images > 7 else min(world_size, 2)
    owner = torch.randint(takers, (num_images,), generator=torch.Generator().manual_seed(0))
    for indices in torch.arange(num_images)[owner == rank].split(batch_size):
        if len(indices):
            features, logits = extractor(images[indices], indices)
            metrics.update(features=features, logits=logits, class_labels=labels[indices], indices=indices)
    return {name: value.item() for name, value in metrics.compute().items()}


def work(rank, world_size, port, folder, images, path):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    results = {}
    for num_images, batch_size in ((61, 5), (61, 1), (7, 4)):
        results[num_images, batch_size] = evaluate(
            folder, torch.from_numpy(images), num_images, rank, world_size, batch_size
        )
    with open(f"{path}/{rank}.pkl", "wb") as file:
        pickle.dump(results, file)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def setup(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("judge"))
    torch.manual_seed(0)
    RegNetForImageClassification(RegNetConfig(**TINY, hidden_sizes=[4, 6])).save_pretrained(folder)
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(folder)
    with np.load(request.config.rootpath / "tests/fixtures/fashion_mnist_64.npz") as file:
        images = torch.from_numpy(file["images"])[:, None]
    return folder, images, {n: evaluate(folder, images, n) for n in (61, 7)}


@pytest.mark.parametrize("world_size", [2, 3])
def test_number_of_processes_and_batch_size_do_not_matter(world_size, setup, tmp_path):
    folder, images, expected = setup
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    # Imported once, not by every worker.
    context.set_forkserver_preload(["diffusers_autonat.metrics", "transformers.models.regnet.modeling_regnet"])
    arguments = (world_size, port, folder, images.numpy(), str(tmp_path))
    workers = [context.Process(target=work, args=(rank, *arguments)) for rank in range(world_size)]
    for worker in workers:
        worker.start()
    for rank, worker in enumerate(workers):
        worker.join(timeout=600)
        assert worker.exitcode == 0
        results = pickle.loads((tmp_path / f"{rank}.pkl").read_bytes())
        for (num_images, _), values in results.items():
            assert values == expected[num_images]
