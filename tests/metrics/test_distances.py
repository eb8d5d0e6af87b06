import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from diffusers_autonat.metrics import (
    FeatureStatistics,
    FrechetDistance,
    KernelDistance,
    Reference,
    covariance_root,
    frechet_distance,
    kernel_distance,
)
from tests.metrics.test_statistics import sample


def reference_of(features, **kwargs):
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    mu, sigma = statistics.compute()
    return Reference(mu, sigma, num_images=len(features), features=features, **kwargs)


def distance_to(reference, features):
    metric = FrechetDistance(reference)
    metric.update(features)
    return metric.compute()["frechet_distance"].item()


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    root = covariance_root(torch.cov(sample(100, 6).T))
    shift = torch.arange(6.0)
    assert frechet_distance(torch.zeros(6), root, shift, root).item() == pytest.approx(55, rel=1e-12)


def test_frechet_distance_of_commuting_gaussians():
    """With common eigenvectors the distance is the squared one of the standard deviations, also at rank 2 of 4."""
    rotation = torch.linalg.qr(sample(4, 4).double()).Q
    a, b = torch.tensor([9.0, 4.0, 0.0, 0.0]).double(), torch.tensor([1.0, 0.0, 16.0, 0.0]).double()
    roots = [covariance_root(rotation @ v.diag() @ rotation.T) for v in (a, b)]
    zero = torch.zeros(4)
    assert frechet_distance(zero, roots[0], zero, roots[1]).item() == pytest.approx(4 + 4 + 16, rel=1e-12)


def test_frechet_distance_in_one_dimension():
    roots = [covariance_root(torch.tensor([[v]])) for v in (4.0, 0.25)]
    assert frechet_distance(torch.tensor([1.0]), roots[0], torch.tensor([-2.0]), roots[1]).item() == 9 + 1.5**2


def test_frechet_distance_equals_scipy_and_torchmetrics():
    real, fake = sample(600, 20), sample(500, 20, seed=1, shift=0.1)
    value = distance_to(reference_of(real), fake)

    x, y = real.double().numpy(), fake.double().numpy()
    product = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * product)
    assert value == pytest.approx(expected, rel=1e-9)

    identity = nn.Identity()
    identity.num_features = 20
    metric = FrechetInceptionDistance(identity)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert value == pytest.approx(metric.compute().item(), rel=1e-5)


def test_distance_to_itself_is_zero_at_full_and_low_rank():
    features = sample(300, 20)
    assert distance_to(reference_of(features), features) == pytest.approx(0, abs=1e-9)
    with pytest.warns(UserWarning):
        assert distance_to(reference_of(features[:10]), features[:10]) == pytest.approx(0, abs=1e-9)


def test_too_few_images_are_warned_about_with_the_number_needed():
    reference = reference_of(sample(300, 20))
    with pytest.warns(UserWarning, match="rank-deficient with 20 images.*at least 21 images, better 200"):
        assert np.isfinite(distance_to(reference, sample(20, 20, seed=1)))
    with pytest.warns(UserWarning, match="15 reference images"):
        FrechetDistance(reference_of(sample(15, 20)))


def test_decompositions_run_on_one_thread_and_the_count_is_restored(monkeypatch):
    """Their last digits depend on it, in matrices too large for a test."""
    threads, seen = torch.get_num_threads(), []
    for name in ("eigh", "svdvals"):
        original = getattr(torch.linalg, name)
        spy = lambda x, name=name, original=original: seen.append((name, torch.get_num_threads())) or original(x)  # noqa: E731
        monkeypatch.setattr(torch.linalg, name, spy)
    try:
        torch.set_num_threads(2)
        distance_to(reference_of(sample(50, 4)), sample(50, 4, seed=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {("eigh", 1), ("svdvals", 1)}


def test_kernel_distance_equals_torchmetrics_and_its_definition():
    real, fake = sample(50, 6), sample(50, 6, seed=1)
    mean, std = kernel_distance(fake, real, subsets=3, subset_size=50)
    metric = KernelInceptionDistance(nn.Identity(), subsets=1, subset_size=50)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert mean.item() == pytest.approx(metric.compute()[0].item(), rel=1e-4)

    x, y = real.double().numpy(), fake.double().numpy()
    kernel = lambda a, b: (a @ b.T / 6 + 1) ** 3  # noqa: E731
    off_diagonal = ~np.eye(50, dtype=bool)
    expected = kernel(x, x)[off_diagonal].mean() + kernel(y, y)[off_diagonal].mean() - 2 * kernel(x, y).mean()
    assert mean.item() == pytest.approx(expected, rel=1e-12)
    assert std.item() == pytest.approx(0, abs=1e-9 * abs(expected))


def test_kernel_distance_is_unbiased():
    """Two sets of one distribution: the mean over many pairs is zero, though each set is small."""
    values = [kernel_distance(torch.randn(20, 3), torch.randn(20, 3), subsets=1)[0] for _ in range(300)]
    values = torch.stack(values)
    assert values.mean().abs() < 4 * values.std() / 300**0.5


def test_kernel_distance_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    values = {kernel_distance(sample(60, 4), sample(80, 4, seed=1), subset_size=30)[0].item() for _ in range(2)}
    assert torch.equal(torch.rand(1), expected) and len(values) == 1


def test_only_the_standard_network_is_called_fid():
    features = sample(50, 4)
    for standard, names in ((False, ("frechet_distance", "kernel_distance")), (True, ("fid", "kid"))):
        reference = reference_of(features, extractor={"is_standard_inception": standard})
        for metric, name in zip((FrechetDistance, KernelDistance), names):
            metric = metric(reference)
            batch = {"features": features, "indices": torch.arange(50)}
            metric.update(**metric._filter_kwargs(**batch))
            assert next(iter(metric.compute())) == name


def test_kernel_distance_needs_features():
    reference = reference_of(sample(50, 4))
    without = Reference(reference.mu, reference.sigma, source="statistics.npz")
    with pytest.raises(ValueError, match="statistics.npz holds only mu and sigma: give its images as the reference"):
        KernelDistance(without)
    one = Reference(reference.mu, reference.sigma, features=reference.features[:1], source="one.npz")
    with pytest.raises(ValueError, match="needs at least 2 features, and one.npz holds 1"):
        KernelDistance(one)
