"""The base class of all critics."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Score(nn.Linear):
    """One score per image, linear in all features of the image."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, features) or maps (batch, channels, height, width) to scores (batch,)."""
        if features.ndim < 4 or not features.is_contiguous(memory_format=torch.channels_last):
            return super().forward(features.flatten(1)).squeeze(1)
        # Flatten channels-last maps in their memory order. Flattening them by channel would copy them, and their
        # gradient would have another memory format than the maps, which slows down the rest of the backward pass.
        weight = self.weight.view(1, *features.shape[1:])
        pixels, weights = (values.permute(0, 2, 3, 1).flatten(1) for values in (features, weight))
        return F.linear(pixels, weights, self.bias).squeeze(1)


class BaseCritic(nn.Module):
    """Images (batch, channels, height, width) in [-1, 1] to unbounded scores (batch,).

    `layers` maps images to features of any shape, and `score` is linear in all features of an image.
    """

    def __init__(self, layers: nn.Module, score: Score) -> None:
        super().__init__()
        self.layers = layers
        self.score = score

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        """With `float32=True`, autocast is disabled, for gradients that must not be rounded to half precision."""
        with torch.autocast(images.device.type, enabled=False) if float32 else nullcontext():
            scores: Tensor = self.score(self.layers(images))
        return scores
