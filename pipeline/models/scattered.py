"""Convolutions to few channels, such as the last layer to an image, as one matrix product and a sum of patches.

Each pixel of the maps adds a patch to the image: a matrix times the channels of the pixel is the patch, and patches
are summed where they overlap. The result and the weights are those of the convolution. CPU kernels compute channels
in blocks of 16 or more, so most of their work is wasted on an image of one channel: in this form, a 7x7 convolution
from 128 channels to 1 is about four times as fast (docs/benchmarks.md). GPUs use the ordinary convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScatteredConv2d(nn.Conv2d):
    """A convolution of stride 1 with an odd square kernel that keeps the size of its maps."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) to (batch, out, height, width)."""
        if not _is_faster_scattered(x):
            return super().forward(x)
        # Flipped, because the kernel says what a pixel receives from its neighbours, and a patch what it gives them.
        patches = self.weight.flip(2, 3).permute(0, 2, 3, 1)
        return _scatter(x, patches, self.bias, (x.shape[2], x.shape[3]), 1, self.kernel_size[0] // 2)


class ScatteredConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with a square kernel."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(batch, in, height, width) to (batch, out, height, width)."""
        if not _is_faster_scattered(x):
            return super().forward(x, output_size)
        stride, padding, kernel = self.stride[0], int(self.padding[0]), self.kernel_size[0]
        height, width = (
            (side - 1) * stride - 2 * padding + kernel + extra
            for side, extra in zip(x.shape[2:], self.output_padding, strict=True)
        )
        return _scatter(x, self.weight.permute(1, 2, 3, 0), self.bias, (height, width), stride, padding)


def _is_faster_scattered(x: Tensor) -> bool:
    # Exported models use the ordinary convolution.
    return x.device.type == "cpu" and not torch.compiler.is_exporting()


def _scatter(
    x: Tensor, patches: Tensor, bias: Tensor | None, size: tuple[int, int], stride: int, padding: int
) -> Tensor:
    """Images of this size (height, width); `patches` (out, kernel, kernel, in) are the weights of a patch."""
    kernel = patches.shape[1]
    values = F.conv2d(x, patches.reshape(-1, x.shape[1], 1, 1))
    # In float32: up to 49 values are added, and half precision would round each partial sum.
    precision = torch.promote_types(values.dtype, torch.float32)
    values = values.to(precision, memory_format=torch.contiguous_format).flatten(2)
    images = F.fold(values, size, kernel, padding=padding, stride=stride)
    return images if bias is None else images + bias[:, None, None]
