import numpy as np
import pytest
import torch

from diffusers_autonat.metrics import FeatureBank, FeatureStatistics, covariance_root
from diffusers_autonat.metrics.statistics import statistics_device


def sample(num_images, num_features, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_features, generator=generator)
    return torch.randn(num_images, num_features, generator=generator) @ mixing + shift


def test_statistics_equal_numpy():
    features = sample(1000, 12, shift=100.0)
    statistics = FeatureStatistics(12)
    statistics.update(features)
    mean, covariance = statistics.compute()
    expected = features.double().numpy()
    np.testing.assert_allclose(mean.numpy(), expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), np.cov(expected.T), rtol=1e-9, atol=1e-9)
    assert mean.dtype == covariance.dtype == torch.float64


@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
def test_statistics_do_not_depend_on_batches_or_order(scale):
    features = scale * sample(997, 16, shift=3.0)
    results = []
    for batch_size in (1, 7, 64, 997):
        statistics = FeatureStatistics(16)
        for rows in torch.randperm(997).split(batch_size):
            statistics.update(features[rows])
        results.append(statistics.compute())
    for mean, covariance in results[1:]:
        assert torch.equal(mean, results[0][0])
        assert torch.equal(covariance, results[0][1])


def test_plain_float64_sums_would_depend_on_order():
    """Why the statistics are kept the way they are."""
    features = sample(997, 16, shift=3.0).double()
    plain = {sum(rows.T @ rows for rows in features.split(size)).sum().item() for size in (1, 7, 64, 997)}
    assert len(plain) > 1


def test_bfloat16_and_half_features_are_counted_exactly():
    features = sample(50, 4)
    for dtype in (torch.bfloat16, torch.float16):
        statistics = FeatureStatistics(4)
        statistics.update(features.to(dtype))
        torch.testing.assert_close(statistics.compute()[0], features.to(dtype).double().mean(0), rtol=1e-6, atol=1e-7)


def test_statistics_survive_saving():
    features = sample(100, 8)
    first, second, whole = (FeatureStatistics(8) for _ in range(3))
    first.update(features[:37])
    second.load_state_dict(first.state_dict())
    second.update(features[37:])
    whole.update(features)
    assert torch.equal(second.compute()[1], whole.compute()[1])


def test_bad_features_are_named():
    statistics = FeatureStatistics(4)
    with pytest.raises(ValueError, match="at least 2 images, got 0"), pytest.warns(UserWarning):
        statistics.compute()
    statistics.update(torch.full((3, 4), torch.nan))
    with pytest.raises(ValueError, match="NaN"):
        statistics.compute()


def test_not_a_covariance():
    with pytest.raises(ValueError, match="Not a covariance: its eigenvalues reach from -1 to 1"):
        covariance_root(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_bank_sorts_by_index_and_refuses_repetitions():
    features, order = sample(40, 4), torch.randperm(40)
    bank = FeatureBank(4)
    for rows in order.split(7):
        bank.update(features[rows], rows)
    assert torch.equal(bank.compute(), features)
    bank.update(features[3:5], torch.tensor([3, 4]))
    with pytest.raises(ValueError, match="Image 3 was added more than once, 2 repetitions"):
        bank.compute()


def test_bank_keeps_the_images_of_a_shorter_run_and_no_more(monkeypatch):
    monkeypatch.setattr("diffusers_autonat.metrics.statistics.MAX_ROWS", 30)
    features, bank = sample(40, 4), FeatureBank(4)
    for rows in torch.arange(40).flip(0).split(7):  # the first of these batches has nothing to keep
        bank.update(features[rows], rows)
    assert sum(map(len, bank.features)) == sum(map(len, bank.indices)) == 30
    assert torch.equal(bank.compute(), features[:30])


def test_statistics_in_float64_stay_off_devices_that_have_none():
    kept = [statistics_device(torch.device(name)) for name in ("mps", "cuda:1", "cpu")]
    assert kept == [torch.device(name) for name in ("cpu", "cuda:1", "cpu")]
