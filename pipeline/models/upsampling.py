"""Bilinear interpolation with aligned corners."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AlignedUpsample(nn.Module):
    """Doubles the side of square maps with bilinear interpolation that keeps the values of the corners.

    It uses two matrix products instead of PyTorch's interpolation, whose gradients on GPUs are not deterministic.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, side, side) to (batch, channels, 2 side, 2 side)."""
        side = x.shape[-1]
        places = torch.linspace(0, side - 1, 2 * side, device=x.device)
        distances = (places[:, None] - torch.arange(side, device=x.device)).abs()
        weights = (1 - distances).clamp(min=0)
        with torch.autocast(x.device.type, enabled=False):
            return (weights @ x.to(weights.dtype) @ weights.T).to(x.dtype)
