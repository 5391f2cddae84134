"""Pixels along the main directions of the real images: features that need no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

MOST_DIMENSIONS = 64
MOST_SIDE = 32


@dataclass(frozen=True)
class PixelFeatures:
    """Principal components: coordinates along the directions in which real images differ most.

    Images of more than 32 pixels are averaged down first: fine detail has directions without number. The
    scale is that of pixels in [-1, 1], so a distance between features is one between blurred images.
    """

    mean: Tensor
    """float32 (pixels,)"""
    directions: Tensor
    """float32 (pixels, dimensions), orthonormal"""
    name: ClassVar[str] = "pixels"

    @classmethod
    def of(cls, real: Tensor) -> Self:
        """The directions of real images: uint8 (count, channels, height, width), on any device."""
        pixels = _pixels(real).double()
        mean = pixels.mean(0)
        # The same on every rank: each computes it from the same images, on the host.
        covariance = torch.cov(pixels.T.cpu()).reshape(len(mean), len(mean))
        _, directions = torch.linalg.eigh(covariance)
        chosen = directions.flip(1)[:, :MOST_DIMENSIONS]
        return cls(mean.float(), chosen.float().to(real.device))

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, up to 64)."""
        return (_pixels(images) - self.mean.to(images.device)) @ self.directions.to(images.device)


def _pixels(images: Tensor) -> Tensor:
    values = images.float() / 127.5 - 1
    height, width = images.shape[-2:]
    if max(height, width) > MOST_SIDE:
        size = (min(height, MOST_SIDE), min(width, MOST_SIDE))
        values = torch.nn.functional.adaptive_avg_pool2d(values, size)
    return values.flatten(1)
