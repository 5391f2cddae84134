"""What the critics of all architectures share."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Score(nn.Linear):
    """One number for each image, linear in all of its features."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, features) or maps (batch, channels, height, width) to (batch,)."""
        if features.ndim < 4 or not features.is_contiguous(memory_format=torch.channels_last):
            return super().forward(features.flatten(1)).squeeze(1)
        # Pixel by pixel, as these maps lie: flattened channel by channel they would be copied, and their gradient
        # come back in another order than theirs, which slows down all that follows.
        weight = self.weight.view(1, *features.shape[1:])
        pixels, weights = (values.permute(0, 2, 3, 1).flatten(1) for values in (features, weight))
        return F.linear(pixels, weights, self.bias).squeeze(1)


class BaseCritic(nn.Module):
    """Images (batch, channels, resolution, resolution) in [-1, 1] to scores (batch,) of any size.

    `layers` turns images into features of any shape, `score` is linear in all of an image's features.
    """

    def __init__(self, layers: nn.Module, score: Score) -> None:
        super().__init__()
        self.layers = layers
        self.score = score

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        """`float32=True` switches mixed precision off inside, for gradients that must not be rounded."""
        with torch.autocast(images.device.type, enabled=False) if float32 else nullcontext():
            scores: Tensor = self.score(self.layers(images))
        return scores
