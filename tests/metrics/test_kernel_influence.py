"""The witness function of the kernel distance against differences of the real distance."""

import pytest
import torch
from torchmetrics.image.kid import poly_kernel, poly_mmd

from diffusers_autonat.metrics import KernelDistance, Reference, kernel_influence
from diffusers_autonat.metrics.influence import clipped
from diffusers_autonat.metrics.kernel_influence import KernelError, KernelInfluence


def drawn(num: int, seed: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(num, 6, generator=noise, dtype=torch.float64) * torch.arange(1, 7) / 4 + seed / 10


@pytest.fixture
def reference():
    features = drawn(80, seed=1)
    return Reference(features.mean(0), features.T.cov(), features=features)


def test_influence_is_what_the_distance_changes_by(reference):
    features, influence, stranger = drawn(80, seed=2), KernelInfluence(reference), drawn(1, seed=9)
    before = poly_mmd(reference.features, features)
    for image in (0, 41, 79):
        others, swapped = torch.cat([features[:image], features[image + 1 :]]), features.clone()
        swapped[image] = stranger
        change = influence(stranger, others) - influence(features[image : image + 1], others)
        assert change.item() / 80 == pytest.approx((poly_mmd(reference.features, swapped) - before).item(), rel=1e-9)


def test_influence_is_the_derivative_of_the_distance(reference):
    features = drawn(60, seed=2)

    def distance(weights: torch.Tensor) -> torch.Tensor:
        among = weights @ poly_kernel(features, features) @ weights
        return among - 2 * weights @ poly_kernel(features, reference.features).mean(dim=1)

    found = KernelInfluence(reference)(features, features)
    uniform, step = torch.full((60,), 1 / 60, dtype=torch.float64), 1e-5
    for image in (0, 30, 59):
        more, less = (1 - step) * uniform, (1 + step) * uniform
        more[image] += step
        less[image] -= step
        slope = (distance(more) - distance(less)) / (2 * step)
        assert found[image] - found.mean() == pytest.approx(slope.item(), rel=1e-6)


def test_an_image_of_an_update_is_not_compared_with_itself(reference, monkeypatch):
    features, influence = drawn(30, seed=3), KernelInfluence(reference)
    others = [torch.cat([features[:i], features[i + 1 :]]) for i in range(30)]
    expected = torch.cat([influence(features[i : i + 1], rest) for i, rest in enumerate(others)])
    found = influence.of_update(influence.project(features.float()))
    torch.testing.assert_close(found, clipped(expected), rtol=1e-5, atol=1e-5)
    assert found.max() < expected.max() and influence.remembered(features) is None
    monkeypatch.setattr(kernel_influence, "ROWS", 7)
    torch.testing.assert_close(influence.of_update(influence.project(features.float())), found, rtol=1e-12, atol=1e-12)


def test_the_error_of_a_distance_is_the_spread_of_its_draws(reference):
    distances, errors = [], []
    for seed in range(60):
        distance, error = KernelDistance(reference), KernelError(reference)
        for metric in (distance, error):
            metric.update(drawn(80, seed=100 + seed) - seed / 10 - 9, torch.arange(80))
        distances.append(distance.compute()["kernel_distance"])
        errors.append(error.compute()["kernel_distance_error"])
    assert torch.stack(errors).mean() == pytest.approx(torch.stack(distances).std().item(), rel=0.2)


def test_a_reference_without_features_is_refused(reference):
    with pytest.raises(ValueError, match="needs features, and memory holds only mu and sigma: give its images"):
        KernelInfluence(Reference(reference.mu, reference.sigma))
