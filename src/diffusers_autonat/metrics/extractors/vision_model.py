"""Vision models of transformers as extractors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from ...loading import without_report
from ...provenance import DIGITS, file_hash
from .base import FeatureExtractor, match_channels
from .preprocessing import Preprocessing


POOLING: dict[str, Callable[[Any], Tensor]] = {
    "pooler_output": lambda output: output.pooler_output.flatten(1),
    "class token": lambda output: output.last_hidden_state[:, 0],  # [B, N, D]
    "mean over tokens": lambda output: output.last_hidden_state.mean(dim=1),  # [B, N, D]
    "mean over places": lambda output: output.last_hidden_state.mean(dim=(2, 3)),  # [B, D, h, w]
}


class TransformersExtractor(FeatureExtractor):
    """Any vision model of transformers: DINOv2, CLIP, ViT, ResNet, RegNet and so on.

    Features are, in this order: the model's `pooler_output`, if the checkpoint has the pooler's weights; the class
    token, if the model has one; the mean over tokens or places. Checkpoints of image classifiers give logits too. The
    image processor's settings are applied in torch, after a comparison with the processor itself on one image.

    Args:
        name: id on the Hub or local folder, with safetensors weights and an image processor.
        batch_size: images per forward pass.

    Raises:
        ValueError: the checkpoint is incomplete, or its features are no function of the image alone.
    """

    def __init__(self, name: str, batch_size: int = 32):
        super().__init__(batch_size)
        folder = checkpoint_folder(name)
        self.name = folder.name if Path(name).is_dir() else name
        self.weights_hash = file_hash(_weight_files(folder))[:DIGITS]
        architectures = AutoConfig.from_pretrained(folder).architectures or []
        is_classifier = any(a.endswith("ForImageClassification") for a in architectures)
        auto_class = AutoModelForImageClassification if is_classifier else AutoModel
        with without_report():
            model, info = auto_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        # CLIP and its like pair an image model with a text model; only the first is needed, and the other may not be stored.
        missing = [key for key in info["missing_keys"] if not key.startswith("text_model.")]
        lacking = sorted(key for key in missing if "pooler" not in key)
        if lacking:
            raise ValueError(
                f"{name} lacks weights ({lacking[0]}, {len(lacking)} in all): its features would be random."
            )
        self.model = getattr(model, "vision_model", model).eval().requires_grad_(False)
        self._outputs: list[Any] = []
        self.model.base_model.register_forward_hook(lambda module, args, output: self._outputs.append(output))
        self.num_channels = getattr(self.model.config, "num_channels", 3)
        self._prepare = self._read_processor(folder, name)
        edge = self._prepare.size or self.model.config.image_size
        edge = max(edge) if isinstance(edge, (tuple, list)) else edge
        probe = (torch.arange(edge * edge) % 256).to(torch.uint8).expand(batch_size, 1, -1).unflatten(-1, (edge, edge))
        # A pooler that the checkpoint lacks has random weights; nothing else may be lacking.
        pooling = self._pooling(self._run(probe)[0], has_pooler=not missing)
        # Through JSON, so that it compares equal with what a reference file recorded.
        self.preprocessing = json.loads(json.dumps({**asdict(self._prepare), "pooling": pooling}))
        (features, logits), (again, _) = self.extract(probe), self.extract(probe)
        if not torch.equal(features, again):
            raise ValueError(f"{name} gives other features each time it sees an image: it cannot measure anything.")
        self.num_features = features.shape[1]
        if logits is not None:
            self.num_classes, self.id2label = logits.shape[1], self.model.config.id2label

    def _read_processor(self, folder: Path, name: str) -> Preprocessing:
        """The image processor's settings, once they have been seen to do what the processor does."""
        try:
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name} has no image processor, so the size and scale of its input are unknown: "
                f"save one beside the weights, e.g. `ViTImageProcessorPil(...).save_pretrained(folder)`."
            ) from error
        mismatch = f"{name}: what {type(processor).__name__} does to images is not reproduced here; use another model."
        try:
            prepare = Preprocessing.from_processor(processor)
            # A fine pattern over a coarse one, not square: shows any other crop, filter or scale.
            rows, columns = torch.meshgrid(torch.arange(300), torch.arange(400), indexing="ij")
            probe = (rows * columns // 150 % 256).to(torch.uint8).expand(1, self.num_channels, -1, -1)
            expected = processor(list(probe.numpy()), return_tensors="pt", input_data_format="channels_first")
            difference = (prepare(probe) - expected["pixel_values"]).abs().mean()
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(mismatch) from error
        if difference > 1.5 * prepare.scale / min(prepare.std):  # Pillow rounds twice: about one grey level
            raise ValueError(mismatch)
        return prepare

    def _pooling(self, output: Any, has_pooler: bool) -> str:
        """Which of `POOLING` fits the network's output."""
        if has_pooler and getattr(output, "pooler_output", None) is not None:
            return "pooler_output"
        if output.last_hidden_state.ndim == 4:
            return "mean over places"
        names = [name for name, _ in self.model.named_parameters()]
        has_class_token = any(name.endswith(("cls_token", "class_embedding")) for name in names)
        return "class token" if has_class_token else "mean over tokens"

    @torch.no_grad()
    def _run(self, images: Tensor) -> tuple[Any, Any]:
        """Output of the network below the classifier, and output of the whole."""
        output = self.model(pixel_values=self._prepare(match_channels(images, self.num_channels)))
        return self._outputs.pop(), output

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        base, output = self._run(images)
        return POOLING[self.preprocessing["pooling"]](base), getattr(output, "logits", None)


def checkpoint_folder(name: str) -> Path:
    """Local folder of a model, downloaded if it is an id on the Hub."""
    if Path(name).is_dir():
        return Path(name).resolve()
    try:
        return Path(snapshot_download(name, allow_patterns=["*config.json", "model*.safetensors*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(f"{name!r} is not `inception`, not a local folder and not reachable on the Hub.") from error


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return [folder / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    if not (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} holds no model.safetensors: save the model there with `save_pretrained`.")
    return [folder / "model.safetensors"]
