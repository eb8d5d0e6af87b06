"""Networks that turn images into features, and for classifiers into logits.

Every extractor is named together with a hash of its weights, because a distance means nothing without them. Images
become uint8 before anything else, as they would be saved, so images in memory and on disk give the same number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .inception import InceptionV3


# First digits of the SHA-256 of the standard network's weights, pt_inception-2015-12-05, as in the name of their file.
STANDARD_INCEPTION = "6726825d"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INTERPOLATION = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # by Pillow's number
POOLING: dict[str, Callable[[Any], Tensor]] = {
    "pooler_output": lambda output: output.pooler_output.flatten(1),
    "class token": lambda output: output.last_hidden_state[:, 0],  # [B, N, D]
    "mean over tokens": lambda output: output.last_hidden_state.mean(dim=1),  # [B, N, D]
    "mean over places": lambda output: output.last_hidden_state.mean(dim=(2, 3)),  # [B, D, h, w]
}


def file_hash(paths: Iterable[Path]) -> str:
    """First 16 digits of the SHA-256 of files read one after another; of one file, what `sha256sum` begins with."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]


def to_uint8(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]`, uint8 or float in [0, 1], as the uint8 they would be saved as."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"Images must be [B, 1 or 3, H, W], got {list(images.shape)}.")
    if images.dtype == torch.uint8:
        return images
    images = images.float()
    low, high = torch.stack(images.aminmax()).tolist()  # one wait for the device
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true of NaN
        raise ValueError(f"Float images must lie in [0, 1], got values from {low:.3g} to {high:.3g}.")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def match_channels(images: Tensor, num_channels: int) -> Tensor:
    """Grey to colour by repetition, colour to grey in Pillow's own integer arithmetic; `[B, C, H, W]` uint8."""
    if images.shape[1] == num_channels:
        return images
    if num_channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.int().unbind(dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16).to(torch.uint8)[:, None]


@dataclass(frozen=True)
class Preprocessing:
    """What an image processor does to an image, on batches of tensors and without torchvision.

    Args:
        size: (height, width), or the length of the shorter edge, or None to leave the size as it is.
        crop: (height, width) of the centre crop, or None.
        resample: `F.interpolate` mode.
        scale: factor on the values 0 to 255; `mean` and `std`: of the scaled values, one or one per channel.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    resample: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, processor: Any) -> Preprocessing:
        """Read a transformers image processor, class defaults included; `crop_pct` becomes a size and a crop."""
        size, crop = None, None
        if getattr(processor, "do_resize", False):
            edge = processor.size.get("shortest_edge")
            size = edge or (processor.size["height"], processor.size["width"])
            crop_pct = getattr(processor, "crop_pct", None)
            if crop_pct is not None:  # ConvNeXt: below 384 pixels resize larger and crop, from there on warp
                size, crop = (int(edge / crop_pct), (edge, edge)) if edge < 384 else ((edge, edge), None)
        if getattr(processor, "do_center_crop", False):
            crop = (processor.crop_size["height"], processor.crop_size["width"])
        normalise = getattr(processor, "do_normalize", False)
        return cls(
            size=size,
            crop=crop,
            resample=INTERPOLATION[int(processor.resample)] if size is not None else "bilinear",
            scale=processor.rescale_factor if getattr(processor, "do_rescale", False) else 1.0,
            mean=tuple(processor.image_mean) if normalise else (0.0,),
            std=tuple(processor.image_std) if normalise else (1.0,),
        )

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]` to float32 `[B, C, h, w]`."""
        height, width = images.shape[-2:]
        size = self.size or (height, width)
        if isinstance(size, int):
            short = min(height, width)
            size = (int(size * height / short), int(size * width / short))
        pixels = images.float()
        if size != (height, width):
            antialias = {} if self.resample == "nearest-exact" else {"align_corners": False, "antialias": True}
            # Rounded as Pillow would, so that bicubic overshoot is cut and devices agree.
            pixels = F.interpolate(pixels, size, mode=self.resample, **antialias).round().clamp(0, 255)
        if self.crop is not None:
            top, left = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            pixels = pixels[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels * self.scale - mean) / std


@contextmanager
def _plain_float32() -> Iterator[None]:
    """No TF32 and no choice of algorithm by chance, whatever the program has set: the same images, the same features.

    cuDNN multiplies in TF32 by default, which keeps 10 of 23 bits.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class FeatureExtractor(nn.Module):
    """Base of the extractors: the input contract, and features that do not depend on how images are batched.

    Matrix products round differently in another batch shape and at another place in the batch. So the network always
    sees exactly `batch_size` images, and the image with index i always stands at place i mod `batch_size`; places
    that are left over are filled with copies. The cost is small where batches hold consecutive images.

    Attributes:
        name: what it was loaded as; `weights_hash`: start of the SHA-256 of its weights.
        num_features: width D of the features; `num_classes`: width K of the logits, None without a classifier.
        id2label: names of the classes, None where the logits are not classes to ask for.
        preprocessing: how images are prepared and features pooled, as JSON data.
        is_standard_inception: whether a distance on its features may be called FID.
    """

    name: str
    weights_hash: str
    num_features: int
    num_classes: int | None = None
    id2label: dict[int, str] | None = None
    preprocessing: dict[str, Any]
    is_standard_inception: bool = False

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def identity(self) -> dict[str, Any]:
        """What a report or a reference says about the extractor, as JSON data."""
        keys = ("name", "weights_hash", "num_features", "is_standard_inception", "preprocessing", "batch_size")
        return {key: getattr(self, key) for key in keys}

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `[B, D]` and logits `[B, K]` or None, of uint8 images `[B, 1 or 3, H, W]`."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features `[B, D]` in float32 and logits `[B, K]` or None.

        Args:
            images: uint8, or float in [0, 1], `[B, C, H, W]` with 1 or 3 channels, on any device.
            indices: index `[B]` of each image in the whole set; 0 to B - 1 when not given.
        """
        images = to_uint8(images).to(next(self.parameters()).device)
        place = (torch.arange(len(images)) if indices is None else indices.cpu()) % self.batch_size
        turn = (place == place[:, None]).tril(-1).sum(dim=1)  # how many images before this one want its place
        outputs, order = [], []
        for rows in (torch.nonzero(turn == i).flatten() for i in range(int(turn.max()) + 1)):
            batch = images[rows[:1]].repeat(self.batch_size, 1, 1, 1)
            batch[place[rows]] = images[rows]
            with _plain_float32():
                extracted = self.extract(batch)
            outputs.append([x[place[rows]].float() for x in extracted if x is not None])
            order.append(rows)
        back = torch.cat(order).argsort()
        features, *logits = (torch.cat(parts)[back] for parts in zip(*outputs))
        return features, logits[0] if logits else None


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
        self.name, self.weights_hash = "inception", file_hash([path])
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
        folder = _checkpoint_folder(name)
        self.name = folder.name if Path(name).is_dir() else name
        self.weights_hash = file_hash(_weight_files(folder))
        architectures = AutoConfig.from_pretrained(folder).architectures or []
        is_classifier = any(a.endswith("ForImageClassification") for a in architectures)
        auto_class = AutoModelForImageClassification if is_classifier else AutoModel
        model, info = auto_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        lacking = sorted(key for key in info["missing_keys"] if "pooler" not in key)
        if lacking:
            raise ValueError(
                f"{name} lacks weights ({lacking[0]}, {len(lacking)} in all): its features would be random."
            )
        # CLIP and SigLIP pair an image model with a text model; only the first is needed.
        self.model = getattr(model, "vision_model", model).eval().requires_grad_(False)
        self._outputs: list[Any] = []
        self.model.base_model.register_forward_hook(lambda module, args, output: self._outputs.append(output))
        self.num_channels = getattr(self.model.config, "num_channels", 3)
        self._prepare = self._read_processor(folder, name)
        edge = self._prepare.size or self.model.config.image_size
        edge = max(edge) if isinstance(edge, (tuple, list)) else edge
        probe = (torch.arange(edge * edge) % 256).to(torch.uint8).expand(batch_size, 1, -1).unflatten(-1, (edge, edge))
        # A pooler that the checkpoint lacks has random weights; nothing else may be lacking.
        pooling = self._pooling(self._run(probe)[0], has_pooler=not info["missing_keys"])
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


def _checkpoint_folder(name: str) -> Path:
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


def load_extractor(name: str, weights: str | Path | None = None, batch_size: int = 32) -> FeatureExtractor:
    """Load a feature extractor in evaluation mode; move it with `.to(device)`.

    Args:
        name: `inception`, or a transformers vision model by Hub id or local folder.
        weights: weights file for `inception`.
        batch_size: images per forward pass. Part of the number in the last digits, so leave it alone when comparing.
    """
    if name == "inception":
        return InceptionExtractor(weights, batch_size)
    if weights is not None:
        raise ValueError(f"A weights file goes with `inception` only; {name} brings its own.")
    return TransformersExtractor(name, batch_size)
