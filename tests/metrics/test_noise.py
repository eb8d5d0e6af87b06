import pytest
import torch

from diffusers_autonat.metrics.noise import image_generators


def test_streams_are_distinct_and_follow_seed_and_index():
    def first(indices, seed):
        return [
            torch.rand(1, generator=generator).item() for generator in image_generators(torch.tensor(indices), seed)
        ]

    assert first([7, 9], 0) == [first([7], 0)[0], first([9], 0)[0]]
    assert len(set(first(range(200), 0) + first(range(200), 1))) == 400
    with pytest.raises(ValueError, match="non-negative"):
        image_generators(torch.arange(1), -1)
