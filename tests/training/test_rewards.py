"""Rewards order images as they should, by themselves and together, and go on where a checkpoint left them."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from diffusers_autonat.metrics import compute_reference, frechet_distance, load_extractor
from diffusers_autonat.metrics.statistics import covariance_root
from diffusers_autonat.training.checkpoints import put_together, take_apart
from diffusers_autonat.training.rewards import DiscriminatorReward, InfluenceReward, WeightedReward
from diffusers_autonat.training.rewards.discriminator import discriminator_loss, features_of_images
from tests.conftest import save_tiny_classifier


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    save_tiny_classifier(folder)
    return load_extractor(str(folder))


@pytest.fixture(scope="module")
def images(fashion_mnist):
    return torch.from_numpy(fashion_mnist[0])[:, None]


@pytest.fixture(scope="module")
def reference(extractor, images):
    return compute_reference([(image, None) for image in images], extractor)


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(True)
    return Accelerator(cpu=True)


def test_influence_is_what_the_distance_loses(accelerator, extractor, reference, images):
    """More of the better half of the images brings the distance down, more of the worse half up."""
    torch.manual_seed(0)
    noisy = (images.float() + 60 * torch.randn(images.shape)).clamp(0, 255).to(torch.uint8)
    reward = InfluenceReward(accelerator, extractor, reference)
    seen = [reward.see(batch) for batch in noisy.split(16)]
    rewards, logs = reward(seen, torch.zeros(64, dtype=torch.long))
    assert rewards.shape == (64,) and rewards.dtype == torch.float32
    features, order = torch.cat(seen).double(), rewards.argsort()

    def distance(rows):
        mean, covariance = features[rows].mean(dim=0), features[rows].T.cov()
        return frechet_distance(mean, covariance_root(covariance), reference.mu, reference.root).item()

    everything = torch.arange(64)
    assert logs["rollout_frechet_distance"] == pytest.approx(distance(everything), rel=1e-3)
    better, worse = (distance(torch.cat([everything, rows])) for rows in (order[32:], order[:32]))
    assert better < distance(everything) < worse


def test_influence_remembers_earlier_updates(accelerator, extractor, reference, images):
    one, other = (InfluenceReward(accelerator, extractor, reference) for _ in range(2))
    labels = torch.zeros(32, dtype=torch.long)
    for part in images.split(32):
        one([one.see(part)], labels)
    tensors = {}
    rest = take_apart(one.state_dict(), tensors, "influence")
    other.load_state_dict(put_together(rest, tensors, "influence"))
    seen = [one.see(images[16:48])]
    assert torch.equal(one(seen, labels)[0], other(seen, labels)[0])
    fresh = InfluenceReward(accelerator, extractor, reference)
    assert not torch.equal(one(seen, labels)[0], fresh(seen, labels)[0])


def test_a_discriminator_learns_which_images_are_real(accelerator, extractor, images, image_folder):
    torch.manual_seed(0)
    features, labels = features_of_images(str(image_folder), extractor, 1000, 28)
    assert len(features) == len(labels) == 64 and labels.max() == 9
    reward = DiscriminatorReward(accelerator, extractor, features, labels, 10, 1e-2, steps=20, batch_size=64)
    seen, asked = [reward.see(255 - images)], torch.arange(64) % 10
    first, _ = reward(seen, asked)
    start = reward.learn(seen, asked)["discriminator_accuracy"]
    for _ in range(3):
        logs = reward.learn(seen, asked)
    last, scores = reward(seen, asked)
    assert logs["discriminator_accuracy"] > max(0.8, start) and last.mean() < first.mean() and last.min() >= 0
    assert scores["fake_score"] == pytest.approx(last.mean().item())
    real, _ = reward([features], labels)
    assert real.mean() > last.mean() + 0.2
    assert set(reward.parts()) == {"discriminator", "discriminator_optimizer"}


def test_real_images_are_taken_from_all_over_the_folder(extractor, image_folder):
    features, labels = features_of_images(str(image_folder), extractor, 10, 28)
    assert 10 <= len(features) <= 20 and len(labels.unique()) > 5
    every, _ = features_of_images(str(image_folder), extractor, 1000, 28)
    torch.testing.assert_close(features, every[:: 64 // len(features)][: len(features)])


def test_the_discriminators_loss():
    loss = discriminator_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.0]))
    expected = (torch.tensor(2.0).log() + (1 + torch.tensor(-2.0).exp()).log()) / 2 + torch.tensor(2.0).log()
    assert loss.item() == pytest.approx(expected.item())


def test_a_weighted_sum_is_of_standardised_rewards(accelerator, extractor, reference, images):
    torch.manual_seed(0)
    influence = InfluenceReward(accelerator, extractor, reference)
    discriminator = DiscriminatorReward(accelerator, extractor, torch.randn(50, 6), None, 10)
    both = WeightedReward(accelerator, {"influence": (influence, 2.0), "discriminator": (discriminator, 0.5)})
    labels = torch.zeros(64, dtype=torch.long)
    seen = [both.see(batch) for batch in images.split(32)]
    assert seen[0]["influence"] is seen[0]["discriminator"]  # one extractor, one pass
    total, _ = both(seen, labels)
    influence.earlier = []
    one = influence([batch["influence"] for batch in seen], labels)[0]
    other = discriminator([batch["influence"] for batch in seen], labels)[0]
    one, other = ((x - x.mean()) / x.std() for x in (one, other))
    torch.testing.assert_close(total, 2 * one + 0.5 * other, rtol=1e-3, atol=1e-4)
    assert set(both.parts()) == {"influence", "discriminator", "discriminator_optimizer"}
