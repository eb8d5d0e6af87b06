"""The regression of rewards on noise, against slopes that are known."""

import pytest
import torch

from diffusers_autonat.search.effects import Effects


def test_effects_are_found_under_classes_and_noise():
    noise = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, 3, generator=noise, dtype=torch.float64)
    classes = torch.arange(4000) % 4
    both = torch.stack([draws, -draws], dim=1)  # [n, 2, P]
    slopes = torch.tensor([1.0, 0.0, -2.0]).double()
    rewards = both @ slopes + both.square().sum(-1) + 10.0 * classes[:, None]
    rewards += torch.randn(4000, 2, generator=noise)
    effects = Effects.of_pairs(draws, rewards)
    assert ((effects.slopes - slopes).abs() < 4 * effects.slope_errors).all()
    assert effects.slope_errors == pytest.approx([1 / (2 * 4000) ** 0.5] * 3, rel=0.1)
    torch.testing.assert_close(effects.certainty, effects.slopes / effects.slope_errors)
    assert effects.certainty[0] > 50 > 4 > abs(effects.certainty[1])
    again = Effects.from_json(effects.to_json())
    assert torch.equal(again.slopes, effects.slopes)
    mean = Effects.mean_of([effects, effects])
    torch.testing.assert_close(mean.slopes, effects.slopes)
    torch.testing.assert_close(mean.slope_errors, effects.slope_errors / 2**0.5)


def test_what_was_known_counts_less_and_not_at_all_where_it_no_longer_holds():
    known = Effects(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]))
    later = known.remembered(Effects(torch.tensor([2.0, 9.0]), torch.tensor([0.5, 0.5])), memory=0.5)
    assert later.slopes.tolist() == pytest.approx([(2 + 0.5 * 1) / 1.5, 9.0])
    assert later.slope_errors.tolist() == pytest.approx([0.5 * (1 + 0.25) ** 0.5 / 1.5, 0.5])
    assert later.weight.tolist() == [1.5, 1.0]
    last = later.remembered(Effects(torch.tensor([2.0, 9.0]), torch.tensor([0.5, 0.5])), memory=0.5)
    assert last.weight.tolist() == [1.75, 1.5]


def test_slopes_of_no_reward_are_zero():
    effects = Effects.of_pairs(torch.randn(10, 2), torch.zeros(10, 2))
    assert effects.certainty.tolist() == [0.0, 0.0]
