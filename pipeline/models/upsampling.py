"""Bilinear interpolation by two matrix products: the gradients of PyTorch's own are not deterministic on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BilinearUpsample(nn.Module):
    """Doubles the sides of maps with bilinear interpolation, as `align_corners=False` does."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, channels, 2 height, 2 width)."""
        height, width = x.shape[-2:]
        rows = self.weights(height, x.device)
        columns = rows if height == width else self.weights(width, x.device)
        with torch.autocast(x.device.type, enabled=False):
            return (rows @ x.to(rows.dtype) @ columns.T).to(x.dtype)

    def weights(self, side: int, device: torch.device) -> Tensor:
        """The share that each place has in each of twice as many: float32 (2 side, side)."""
        places = self.places(side, device)
        distances = (places[:, None] - torch.arange(side, device=device)).abs()
        return (1 - distances).clamp(min=0)

    def places(self, side: int, device: torch.device) -> Tensor:
        """Where the centre of each new pixel lies among the old ones: float32 (2 side,)."""
        return (torch.arange(2 * side, device=device) / 2 - 0.25).clamp(0, side - 1)


class AlignedUpsample(BilinearUpsample):
    """The same, keeping the values of the corners, as `align_corners=True` does."""

    def places(self, side: int, device: torch.device) -> Tensor:
        """The old corners are new ones."""
        return torch.linspace(0, side - 1, 2 * side, device=device)
