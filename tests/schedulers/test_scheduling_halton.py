import pytest
import torch

from diffusers_autonat import HaltonScheduler
from diffusers_autonat.schedulers.scheduling_halton import halton_places, radical_inverse


def test_the_sequence_as_everyone_prints_it():
    assert [radical_inverse(i, 2) for i in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert [radical_inverse(i, 3) for i in range(1, 6)] == pytest.approx([1 / 3, 2 / 3, 1 / 9, 4 / 9, 7 / 9])


def test_places_of_a_grid():
    # (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9), (5/8, 7/9) on a 4 x 4 grid
    assert halton_places(4)[:5] == (2 * 4 + 1, 1 * 4 + 2, 3 * 4 + 0, 0 * 4 + 1, 2 * 4 + 3)
    for side in (1, 7, 16, 32):
        assert sorted(halton_places(side)) == list(range(side**2))


def test_the_published_counts():
    """1 - (2 / pi) arccos(t / T) of the tokens are revealed after step t, and what is revealed comes first."""
    scheduler, mask = HaltonScheduler(8), 8
    tokens, logits = torch.full((1, 256), mask), torch.zeros(1, 256, 8)
    scheduler.set_timesteps(4)
    for t in range(4):
        tokens = scheduler.step(logits, t, tokens).prev_sample
        revealed = int((tokens != mask).sum())
        expected = 256 * (1 - 2 / torch.pi * torch.arccos(torch.tensor((t + 1) / 4)))
        assert abs(revealed - expected) < 1
        assert (tokens[0, list(halton_places(16)[:revealed])] != mask).all()
