"""Pixels as networks see them and as files hold them: float32 in [-1, 1], and uint8."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return pixels.mul(2 / 255).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """float32 in [-1, 1] to uint8 in 0..255, rounded."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
