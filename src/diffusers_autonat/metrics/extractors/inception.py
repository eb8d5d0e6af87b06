"""The standard FID network as an extractor: its weights, and whether they are the standard ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...provenance import DIGITS, file_hash
from .base import FeatureExtractor, match_channels
from .inception_network import InceptionV3


# First digits of the SHA-256 of the standard network's weights, pt_inception-2015-12-05, as in the name of their file.
STANDARD_INCEPTION = "6726825d"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class InceptionExtractor(FeatureExtractor):
    """The standard FID network: 2048 pooled features, and the 1008 logits without bias that the Inception score uses.

    Args:
        weights: a file with the network's weights as a state dict; downloaded when not given. Only the standard weights
            make this the standard network, whatever the file is called.
        batch_size: images per forward pass.

    Raises:
        ValueError: the weights cannot be downloaded, or are of another network.
    """

    def __init__(self, weights: str | Path | None = None, batch_size: int = 32):
        super().__init__(batch_size)
        path = Path(weights) if weights is not None else _download_inception()
        self.model = InceptionV3().eval().requires_grad_(False)
        try:
            self.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except OSError:
            raise
        except Exception as error:  # unpickling a file of another kind fails in every way there is
            raise ValueError(
                f"{path} does not hold the weights of the FID network: take {INCEPTION_URL.rsplit('/', 1)[-1]}."
            ) from error
        self.name, self.weights_hash = "inception", file_hash([path])[:DIGITS]
        self.num_features, self.num_classes = 2048, 1008
        self.preprocessing = {"resize": "299x299 as TensorFlow 1 did", "pooling": "average"}
        self.is_standard_inception = self.weights_hash.startswith(STANDARD_INCEPTION)

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(match_channels(images, 3))


def _download_inception() -> Path:
    """The standard weights in torch.hub's folder, where torch-fidelity keeps them too."""
    path = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_URL.rsplit("/", 1)[-1])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=STANDARD_INCEPTION)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"The FID network's weights are not at {path} and cannot be downloaded ({error}): name a file with them "
                "(--extractor-weights), or a transformers vision model as feature extractor."
            ) from error
    return path
