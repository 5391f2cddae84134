"""What the critics of all architectures share."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn


class BaseCritic(nn.Module):
    """Images (batch, channels, resolution, resolution) in [-1, 1] to scores (batch,) of any size.

    `layers` turns images into features of any shape, `score` is linear in all of an image's features.
    """

    def __init__(self, layers: nn.Module, score: nn.Linear) -> None:
        super().__init__()
        self.layers = layers
        self.score = score

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        """`float32=True` switches mixed precision off inside, for gradients that must not be rounded."""
        with torch.autocast(images.device.type, enabled=False) if float32 else nullcontext():
            scores: Tensor = self.score(self.layers(images).flatten(1))
        return scores.squeeze(1)
