"""The influence of an image against differences of the real distance, and the regression against a plain one."""

import pytest
import torch

from diffusers_autonat.metrics import Reference
from diffusers_autonat.metrics.distances import frechet_distance
from diffusers_autonat.metrics.statistics import covariance_root
from diffusers_autonat.search.influence import Effects, FrechetInfluence, Population


def correlated(num: int, width: int, seed: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=noise, dtype=torch.float64)
    return torch.randn(num, width, generator=noise, dtype=torch.float64) @ mixing + seed


@pytest.fixture
def reference():
    features = correlated(600, 6, seed=1)
    return Reference(features.mean(0), features.T.cov())


def test_influence_is_the_derivative_of_the_distance(reference):
    features = correlated(200, 6, seed=2)

    def distance(weights: torch.Tensor) -> torch.Tensor:
        mean = weights @ features
        moved = features - mean
        root = covariance_root((weights[:, None] * moved).T @ moved)
        return frechet_distance(mean, root, reference.mu, reference.root)

    influence = FrechetInfluence(reference)
    seen = influence.project(features)
    found = influence(seen, Population.of(seen))
    uniform, step = torch.full((200,), 1 / 200, dtype=torch.float64), 1e-5
    for image in (0, 50, 199):
        more, less = (1 - step) * uniform, (1 + step) * uniform
        more[image] += step
        less[image] -= step
        slope = (distance(more) - distance(less)) / (2 * step)
        assert found[image] - found.mean() == pytest.approx(slope.item(), rel=1e-5)


def test_influence_looks_at_the_principal_directions(reference):
    features = correlated(50, 6, seed=3)
    influence = FrechetInfluence(reference, max_directions=2)
    seen = influence.project(features)
    assert seen.shape == (50, 2) and influence.variances.tolist() == sorted(influence.variances.tolist())
    assert influence(seen, Population.of(seen)).isfinite().all()


def test_influence_of_a_population_that_does_not_vary_is_finite(reference):
    influence = FrechetInfluence(reference)
    features = torch.ones(10, 6, dtype=torch.float64)
    assert influence(features, Population.of(features)).isfinite().all()


def test_populations_pool_and_pack():
    features = correlated(90, 5, seed=4)
    whole = Population.of(features)
    pooled = Population.pooled([Population.of(part) for part in features.split([20, 30, 40])])
    again = Population.from_json(whole.to_json())
    for other, tolerance in ((pooled, 1e-12), (again, 1e-6)):
        assert other.count == 90
        torch.testing.assert_close(other.mean, whole.mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(other.covariance, whole.covariance, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(whole.covariance, features.T.cov(correction=0))


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
    later = effects.remembered(effects.scaled(2.0), memory=0.5)
    torch.testing.assert_close(later.slopes, effects.slopes * (2 + 0.5) / 1.5)
    torch.testing.assert_close(later.slope_errors, effects.slope_errors * (4 + 0.25) ** 0.5 / 1.5)
    assert later.weight == 1.5


def test_slopes_of_no_reward_are_zero():
    effects = Effects.of_pairs(torch.randn(10, 2), torch.zeros(10, 2))
    assert effects.certainty.tolist() == [0.0, 0.0]
