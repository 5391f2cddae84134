"""Principal components of the real images' pixels: features that need no weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from pipeline.pixels import to_float

MOST_DIMENSIONS = 64
MOST_SIDE = 32


@dataclass(frozen=True)
class PixelFeatures:
    """Coordinates along the directions in which real images differ most, at most 64 of them.

    Images larger than 32 pixels are first reduced to 32 by averaging, because fine detail has too many directions.
    The features have the scale of pixels in [-1, 1], so distances between them are distances between blurred images.
    """

    mean: Tensor
    """float32 (pixels,)"""
    directions: Tensor
    """float32 (pixels, dimensions), orthonormal"""
    name: ClassVar[str] = "pixels"

    @classmethod
    def of(cls, real: Iterable[Tensor]) -> Self:
        """Features for these real images: batches of uint8 (count, channels, height, width), on any device."""
        count, shift = 0, None
        for batch in real:
            # On the host and in the same order, so that all ranks get the same directions.
            pixels = _pixels(batch).double().cpu()
            if shift is None:
                shift = pixels.mean(0)
                total = torch.zeros_like(shift)
                products = torch.zeros(len(shift), len(shift), dtype=shift.dtype)
            # Relative to a point near the mean, so that the difference below loses little precision.
            pixels -= shift
            count += len(pixels)
            total += pixels.sum(0)
            products += pixels.T @ pixels
        assert shift is not None, "a run has images"
        mean = total / count
        _, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        return cls((shift + mean).float(), directions.flip(1)[:, :MOST_DIMENSIONS].float().contiguous())

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """All that these features are made of: another process makes the same ones from it."""
        return self.mean, self.directions

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, up to 64)."""
        return (_pixels(images) - self.mean.to(images.device)) @ self.directions.to(images.device)


def _pixels(images: Tensor) -> Tensor:
    values = to_float(images)
    height, width = images.shape[-2:]
    if max(height, width) > MOST_SIDE:
        size = (min(height, MOST_SIDE), min(width, MOST_SIDE))
        values = torch.nn.functional.adaptive_avg_pool2d(values, size)
    return values.flatten(1)
