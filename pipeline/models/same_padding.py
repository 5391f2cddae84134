"""Convolutions of stride 1 that keep the size of their maps, with kernels of any size ("same" padding).

An even kernel needs an odd number of rows of padding; the extra row is after the map: a 4 x 4 kernel has a padding
of 1 before and 2 after. PyTorch's padding="same" warns about this, and its transposed convolutions do not have it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.scattered import ScatteredConvTranspose2d


class SameConv2d(nn.Conv2d):
    """A convolution of stride 1 that keeps the size of its maps."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        before, after = (kernel_size - 1) // 2, kernel_size // 2
        self.margins = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) to (batch, out, height, width)."""
        return super().forward(F.pad(x, self.margins))


class SameConvTranspose2d(ScatteredConvTranspose2d):
    """A transposed convolution that keeps the size of its maps: the adjoint of `SameConv2d` from out to in channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        # The same padding before and after; the extra row and column of an even kernel are cropped in `forward`.
        super().__init__(in_channels, out_channels, kernel_size, padding=(kernel_size - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # no output_size: there is only one
        """(batch, in, height, width) to (batch, out, height, width)."""
        height, width = x.shape[2:]
        return super().forward(x)[:, :, :height, :width]
