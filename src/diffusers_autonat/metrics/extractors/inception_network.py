"""The network that FID is defined with: Inception-v3 as TensorFlow published it in 2015.

It differs from later Inception-v3s in its averages (padding is not counted), in a maximum where the last block would
average, in 1008 outputs, and in how images are enlarged. Submodules are named as in the file of converted weights that
pytorch-fid and torch-fidelity use.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


POOLS = {
    "average": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "maximum": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "halve": lambda x: F.max_pool2d(x, 3, stride=2),
}


class ConvNormReLU(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True
    ):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Several paths over the same input, joined along the channels.

    Args:
        in_channels: of the input.
        paths: lists of steps. A step is the name of a pool, a convolution (name, channels, kernel[, stride]), or
            at the end a list of convolutions over the same input.
    """

    def __init__(self, in_channels: int, *paths: list[Any]):
        super().__init__()
        self.paths: list[list[Any]] = []
        self.out_channels = 0
        for path in paths:
            names: list[Any] = []
            channels = in_channels
            for step in path:
                if isinstance(step, str):
                    names.append(step)
                    continue
                fork = step if isinstance(step, list) else [step]
                for name, *shape in fork:
                    self.add_module(name, ConvNormReLU(channels, *shape))
                names.append([name for name, *_ in fork])
                channels = sum(shape[0] for _, *shape in fork)
            self.paths.append(names)
            self.out_channels += channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._walk(path, x) for path in self.paths], dim=1)

    def _walk(self, path: list[Any], x: Tensor) -> Tensor:
        for step in path:
            if isinstance(step, str):
                x = POOLS[step](x)
            else:
                x = torch.cat([self.get_submodule(name)(x) for name in step], dim=1)
        return x


def _mixed_5(channels: int, pooled: int) -> Mixed:
    return Mixed(
        channels,
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        ["average", ("branch_pool", pooled, 1)],
    )


def _mixed_6a(channels: int) -> Mixed:
    return Mixed(
        channels,
        [("branch3x3", 384, 3, 2)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)],
        ["halve"],
    )


def _mixed_6(channels: int, inner: int) -> Mixed:
    return Mixed(
        channels,
        [("branch1x1", 192, 1)],
        [("branch7x7_1", inner, 1), ("branch7x7_2", inner, (1, 7)), ("branch7x7_3", 192, (7, 1))],
        [("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, (7, 1)), ("branch7x7dbl_3", inner, (1, 7)),
         ("branch7x7dbl_4", inner, (7, 1)), ("branch7x7dbl_5", 192, (1, 7))],
        ["average", ("branch_pool", 192, 1)],
    )  # fmt: skip


def _mixed_7a(channels: int) -> Mixed:
    return Mixed(
        channels,
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
        [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
         ("branch7x7x3_4", 192, 3, 2)],
        ["halve"],
    )  # fmt: skip


def _mixed_7(channels: int, pool: str) -> Mixed:
    return Mixed(
        channels,
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))]],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3),
         [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))]],
        [pool, ("branch_pool", 192, 1)],
    )  # fmt: skip


class InceptionV3(nn.Module):
    """Images to 2048 features and 1008 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, 3, pad=False)
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = _mixed_6a(288)
        self.Mixed_6b = _mixed_6(768, 128)
        self.Mixed_6c = _mixed_6(768, 160)
        self.Mixed_6d = _mixed_6(768, 160)
        self.Mixed_6e = _mixed_6(768, 192)
        self.Mixed_7a = _mixed_7a(768)
        self.Mixed_7b = _mixed_7(1280, "average")
        self.Mixed_7c = _mixed_7(2048, "maximum")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, 2048]` and the logits without bias `[B, 1008]` that the Inception score uses.

        Args:
            images: uint8 `[B, 3, H, W]` of any size.
        """
        x = resize_as_tensorflow_1(images.float(), 299)
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # [B, 64, 147, 147]
        x = POOLS["halve"](x)  # [B, 64, 73, 73]
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # [B, 192, 71, 71]
        x = POOLS["halve"](x)  # [B, 192, 35, 35]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # [B, 288, 35, 35]
        x = self.Mixed_6a(x)  # [B, 768, 17, 17]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7a(x)  # [B, 1280, 8, 8]
        x = self.Mixed_7c(self.Mixed_7b(x))  # [B, 2048, 8, 8]
        features = x.mean(dim=(2, 3))
        return features, features @ self.fc.weight.T


def resize_as_tensorflow_1(images: Tensor, size: int) -> Tensor:
    """Bilinear as in TensorFlow 1: output pixel i lies at i * old / new, so corners coincide and centres do not.

    Args:
        images: float `[B, C, H, W]`.
        size: of the square that comes out.
    """
    for dim in (2, 3):
        length = images.shape[dim]
        place = torch.arange(size, dtype=torch.float32) * (length / size)
        low = place.floor().long().clamp(max=length - 1)
        weight = (place - low).to(images.device).view([-1 if d == dim else 1 for d in range(4)])
        below, above = (images.index_select(dim, i.to(images.device)) for i in (low, (low + 1).clamp(max=length - 1)))
        images = below + (above - below) * weight
    return images
