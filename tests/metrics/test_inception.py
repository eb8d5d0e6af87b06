"""The FID network's structure, against numbers that torch-fidelity 0.4.0 gives for the same weights and images."""

import hashlib

import numpy as np
import pytest
import torch

from diffusers_autonat.metrics import load_extractor
from diffusers_autonat.metrics.extractors.inception_network import InceptionV3, resize_as_tensorflow_1


FEATURES = [0.96353, 2.0889, 1.96265, 0.67657]
LOGITS = [2.84267, -2.85241, 2.82733]


def fill(model):
    """Weights that every machine draws alike and that keep activations in range."""
    rng = np.random.default_rng(0)
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith(("conv.weight", "fc.weight")):
            noise = torch.from_numpy(rng.standard_normal(tuple(tensor.shape), np.float32))
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tuple(tensor.shape))))
        elif name.endswith("running_mean"):
            tensor.copy_(torch.from_numpy(0.1 * rng.standard_normal(tuple(tensor.shape), np.float32)))


def probe():
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 1, 40, 60), dtype=np.uint8))


def test_features_and_logits(tmp_path):
    model = InceptionV3()
    fill(model)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    extractor = load_extractor("inception", tmp_path / "weights.pth", batch_size=1)
    assert not extractor.is_standard_inception and (extractor.num_features, extractor.num_classes) == (2048, 1008)
    features, logits = extractor(probe())
    assert features.shape == (1, 2048) and logits.shape == (1, 1008)
    assert features[0, [0, 500, 1000, 2047]].tolist() == pytest.approx(FEATURES, rel=1e-4)
    assert logits[0, [0, 500, 1007]].tolist() == pytest.approx(LOGITS, rel=1e-3)


def test_the_standard_network_is_known_by_its_weights(tmp_path, monkeypatch):
    torch.save(InceptionV3().state_dict(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    monkeypatch.setattr("diffusers_autonat.metrics.extractors.inception.STANDARD_INCEPTION", digest[:8])
    assert load_extractor("inception", tmp_path / "weights.pth").is_standard_inception


def test_resizing_puts_pixels_where_tensorflow_1_did():
    row = torch.tensor([0.0, 4.0]).expand(1, 1, 2, 2)
    assert resize_as_tensorflow_1(row, 4)[0, 0, 0].tolist() == [0.0, 2.0, 4.0, 4.0]
    image = torch.rand(1, 3, 299, 299)
    assert torch.equal(resize_as_tensorflow_1(image, 299), image)
