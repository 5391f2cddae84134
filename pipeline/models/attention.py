"""Self-attention between the places of maps, as in SAGAN (Zhang et al. 2019, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import initialisation


class SelfAttention(nn.Module):
    """Adds to each place of the maps a mean of what other places hold, weighted by how well they match.

    The sum starts with a weight of 0, so the layer starts as the identity. Places are compared with means over 2 x 2 of
    them, which takes a quarter of the time and memory: (height width)^2 / 4 numbers for each image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        compared, summed = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, compared, 1, bias=False)
        self.key = nn.Conv2d(channels, compared, 1, bias=False)
        self.value = nn.Conv2d(channels, summed, 1, bias=False)
        self.out = nn.Conv2d(summed, channels, 1, bias=False)
        self.weight = nn.Parameter(torch.zeros(()))
        self.apply(initialisation.glorot_uniform)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same shape; both sides are even."""
        query = self.query(maps).flatten(2).transpose(1, 2)
        key, value = (F.avg_pool2d(layer(maps), 2).flatten(2) for layer in (self.key, self.value))
        matches = torch.softmax(query @ key, dim=2)
        summed = (value @ matches.transpose(1, 2)).view(-1, value.shape[1], *maps.shape[2:])
        result: Tensor = maps + self.weight * self.out(summed)
        return result
