import numpy as np
import pytest
import torch

from diffusers_autonat.metrics import manifold_scores


def naive_manifold_scores(fake, real, k):
    """Straight from the papers, one pair at a time."""
    distance = lambda a, b: np.sqrt(((a - b) ** 2).sum())  # noqa: E731

    def radii(points):
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    real_radii, fake_radii = radii(real), radii(fake)
    inside = np.array([[distance(f, r) < radius for r, radius in zip(real, real_radii)] for f in fake])
    recalled = [any(distance(f, r) < radius for f, radius in zip(fake, fake_radii)) for r in real]
    return {
        "precision": inside.any(1).mean(),
        "recall": np.mean(recalled),
        "density": inside.sum() / (k * len(fake)),
        "coverage": inside.any(0).mean(),
    }


def test_manifold_scores_equal_their_definitions():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(70, 3, generator=generator), torch.randn(50, 3, generator=generator) * 0.8 + 0.8
    expected = naive_manifold_scores(fake.double().numpy(), real.double().numpy(), 5)
    assert {key: value.item() for key, value in manifold_scores(fake, real).items()} == pytest.approx(expected)
    assert 0 < expected["precision"] < 1 and 0 < expected["recall"] < 1


def test_manifold_scores_do_not_depend_on_slices():
    """1,100 points need two slices; the same points twice are inside each other's balls."""
    points = torch.randn(1100, 4, generator=torch.Generator().manual_seed(0))
    scores = manifold_scores(points, points)
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    far = manifold_scores(points + 100, points)
    assert sum(far.values()) == 0


def test_manifold_scores_need_more_images_than_neighbours():
    with pytest.raises(ValueError, match="more than 5 images a side: 5, 9"):
        manifold_scores(torch.randn(5, 2), torch.randn(9, 2))
