"""Many calls of every kind on one set of components: nothing grows, nothing carries over."""

import itertools

import psutil
import pytest
import torch

from diffusers_autonat import GenerationStrategy
from tests.conftest import tiny_pipeline
from tests.pipelines.test_pipeline_enat import enat_pipeline


def calls(pipelines, num_calls):
    """Batch, T, strategy and pipeline change from call to call; yields the tokens of the first call's repetitions."""
    batches, steps = itertools.cycle([1, 3, 2, 8]), itertools.cycle([4, 1, 8, 5, 12])
    for number in range(num_calls):
        pipe, batch, T = pipelines[number % len(pipelines)], next(batches), next(steps)
        strategy = GenerationStrategy.cosine(T, guidance_scale=number % 3)
        noise = [torch.Generator().manual_seed(number + i) for i in range(batch)]
        pipe(list(itertools.islice(itertools.cycle([0, "dog", 3, 4]), batch)), strategy=strategy, generator=noise)
        if number % 100 == 0:
            yield [
                pipe([1, 2], strategy=GenerationStrategy.cosine(4), generator=torch.Generator().manual_seed(0),
                     output_type="latent").images
                for pipe in pipelines
            ]  # fmt: skip


@pytest.mark.slow
def test_a_thousand_calls_leave_memory_and_images_as_they_were():
    seen, sizes = [], []
    for tokens in calls([tiny_pipeline(), enat_pipeline()], 1000):
        seen.append(tokens)
        sizes.append(psutil.Process().memory_info().rss)
    assert all(torch.equal(one, first) for tokens in seen for one, first in zip(tokens, seen[0]))
    assert max(sizes) - sizes[1] < 30e6, [size // 10**6 for size in sizes]
