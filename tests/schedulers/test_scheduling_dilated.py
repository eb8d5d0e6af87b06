import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_autonat import DilatedScheduler, GenerationStrategy
from diffusers_autonat.schedulers.scheduling_dilated import dilated_order


def share_an_edge(places: torch.Tensor) -> bool:
    """Whether any two marked places of a grid `[h, w]` do."""
    return bool((places[1:] & places[:-1]).any() or (places[:, 1:] & places[:, :-1]).any())


def apart(left: torch.Tensor, colour: torch.Tensor) -> int:
    """How many masked places of a grid do not touch: those of a colour, and others one by one."""
    chosen = left & colour
    for row, col in (left & ~colour).nonzero().tolist():
        other = torch.zeros_like(left)
        other[row, col] = True
        if not share_an_edge((left & colour) | other):
            chosen |= other
    return int(chosen.sum())


def test_the_order_of_dithering():
    rank, odd = dilated_order(4, torch.device("cpu"))
    assert rank.view(4, 4).tolist() == [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
    assert torch.equal(odd, rank >= 8)


@given(st.integers(1, 9), st.integers(1, 8), st.integers(0, 10**6))
def test_no_neighbours_in_a_step_while_a_colour_and_what_does_not_touch_it_are_enough(side, steps, seed):
    noise = torch.Generator().manual_seed(seed)
    scheduler, mask = DilatedScheduler(4), 4
    row, col = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    odd = (row + col) % 2 == 1
    ratios = torch.rand(steps - 1, generator=noise).sort(descending=True).values.tolist()
    strategy = GenerationStrategy([*ratios, 0.0], [1.0] * steps, [0.0] * steps, [0.0] * steps)
    tokens = torch.randint(0, 5, (3, side**2), generator=noise)  # a fifth is masked, or nearly all
    tokens[1:] = torch.where(torch.rand(2, side**2, generator=noise) < 0.9, mask, tokens[1:])
    for t, parameters in enumerate(scheduler.plan(strategy=strategy).parameters[:-1]):
        logits = torch.randn(3, side**2, 4, generator=noise)
        after = scheduler.step(logits, t, tokens, noise, parameters=parameters).prev_sample
        for before, now in zip(tokens.view(3, side, side), after.view(3, side, side)):
            left, revealed = before == mask, (before == mask) & (now != mask)
            if revealed.sum() <= max(apart(left, odd), apart(left, ~odd)):
                assert not share_an_edge(revealed)
        tokens = after


def test_what_does_not_touch_comes_before_what_does():
    scheduler, left = DilatedScheduler(4), [2, 3, 7, 8]  # of 3 x 3, where 7 touches 8
    tokens = torch.zeros(1, 9, dtype=torch.long)
    tokens[:, left] = 4
    scheduler.set_timesteps(strategy=GenerationStrategy([0.1, 0.0], [1.0] * 2, [0.0] * 2, [0.0] * 2))
    after = scheduler.step(torch.zeros(1, 9, 4), 0, tokens).prev_sample
    assert (after == 4).nonzero().tolist() == [[0, 7]]


@pytest.mark.parametrize(("side", "steps"), [(7, 8), (7, 16), (16, 8), (16, 16)])
def test_with_the_heuristic_no_neighbours_at_all(side, steps):
    scheduler = DilatedScheduler(4)
    tokens = torch.full((1, side**2), 4)
    for t, parameters in enumerate(scheduler.plan(steps).parameters):
        after = scheduler.step(torch.zeros(1, side**2, 4), t, tokens, parameters=parameters).prev_sample
        assert not share_an_edge(((tokens == 4) & (after != 4)).view(side, side))
        tokens = after
