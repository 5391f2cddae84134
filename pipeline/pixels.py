"""Pixels as networks see them and as files hold them: float32 in [-1, 1], and uint8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WHITE = 255
CHECKS, SQUARE = (153, 102), 8
"""The greys of a checkerboard, and the side of its squares in pixels."""


def channels_first(images: Tensor) -> Tensor:
    """Images on the CPU, (count, channels, height, width) in any order of their memory, in that order.

    NumPy needs a third of the time that torch does.
    """
    return torch.from_numpy(np.ascontiguousarray(images.numpy()))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return pixels.mul(2 / 255).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """float32 in [-1, 1] to uint8 in 0..255, rounded."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def on_white(pixels: Tensor) -> Tensor:
    """Images with alpha, uint8 (..., 4, height, width), on white: (..., 3, height, width). Others as they are."""
    return _on(pixels, torch.tensor(WHITE, device=pixels.device))


def on_checkerboard(pixels: Tensor) -> Tensor:
    """Images with alpha, uint8 (..., 4, height, width), on grey squares, without it: (..., 3, height, width)."""
    rows, columns = (
        torch.arange(side, device=pixels.device).div(SQUARE, rounding_mode="floor")
        for side in pixels.shape[-2:]
    )
    is_dark = (rows[:, None] + columns) % 2 == 1
    return _on(pixels, torch.where(is_dark, CHECKS[1], CHECKS[0]))


def _on(pixels: Tensor, background: Tensor) -> Tensor:
    """`background` is grey: a value, or (height, width)."""
    if pixels.shape[-3] != 4:
        return pixels
    colours, alpha = pixels[..., :3, :, :].int(), pixels[..., 3:, :, :].int()
    total = colours * alpha + background.int() * (255 - alpha)
    return (total + 127).div(255, rounding_mode="floor").to(torch.uint8)
