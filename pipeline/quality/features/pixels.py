"""Low frequencies of the pixels, and random sums of all that is left: features that need no weights and no real images.

All images are mapped in the same way, by numbers that depend on nothing but their shape. So no direction is left out
because real images do not vary in it, nothing is averaged away unseen, and neither the number of the real images nor
their order matters.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.metric_table import PIXELS
from pipeline.pixels import to_float

FREQUENCIES = 8
"""Along each axis of each channel."""
SUMS = 64


class PixelFeatures:
    """The 8 x 8 lowest frequencies of each channel, and 64 sums of the rest of the image with random signs.

    The frequencies are those of the discrete cosine transform, which for most images hold most of the differences.
    A sum with random signs has on average the square of the whole rest, whatever it looks like, so squared distances
    between features are those between images, the part of the rest up to about 18% (Johnson and Lindenstrauss 1984;
    Achlioptas 2003, "Database-friendly random projections"). Images of up to 8 x 8 pixels have no rest.

    Features are scaled so that their mean square is that of the pixels, which are in [-1, 1]: figures of images of
    different sizes are then of the same order.
    """

    name: ClassVar[str] = PIXELS

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        """For images (channels, height, width)."""
        channels, height, width = shape
        self._rows, self._columns = (_cosines(size).to(device) for size in (height, width))
        low, pixels = channels * len(self._rows) * len(self._columns), math.prod(shape)
        self._signs = _signs(pixels).to(device) if low < pixels else None
        self._scale = ((low + SUMS) / pixels) ** 0.5 if low < pixels else 1.0

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, dimensions): 128 for one channel, 256 for three."""
        values = to_float(images)
        low = self._rows @ values @ self._columns.T
        if self._signs is None:
            return low.flatten(1)
        rest = values - self._rows.T @ low @ self._columns
        return torch.cat([low.flatten(1), rest.flatten(1) @ self._signs], 1) * self._scale


def _cosines(size: int) -> Tensor:
    """The lowest frequencies of the orthonormal cosine transform: float32 (up to 8, size)."""
    frequency, place = torch.arange(min(FREQUENCIES, size)).double(), torch.arange(size).double()
    waves = torch.cos(torch.pi * torch.outer(frequency, place + 0.5) / size)
    return torch.nn.functional.normalize(waves).float()


def _signs(pixels: int) -> Tensor:
    """Random signs, divided by 8 so that the sums keep the mean square: float32 (pixels, 64), the same everywhere."""
    # NumPy guarantees that the raw bits of a bit generator never change.
    words = np.random.Philox(np.random.SeedSequence(0)).random_raw(pixels)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8)).reshape(pixels, SUMS)
    return torch.from_numpy(bits).float().mul_(2).sub_(1).div_(SUMS**0.5)
