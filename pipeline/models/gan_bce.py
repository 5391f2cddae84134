"""The networks of the reference system gan-bce, for images whose sides are multiples of 4.

The images of the original are in [0, 1]. Ours are in [-1, 1] and are converted at the critic's input and the
generator's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.critic import BaseCritic, Score
from pipeline.models.norms import BatchNorm2d
from pipeline.models.quartering import quarter
from pipeline.models.sides import Resolution
from pipeline.models.upsampling import AlignedUpsample
from pipeline.options import GanBceOptions


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(self, options: GanBceOptions, resolution: Resolution, channels: int) -> None:
        super().__init__()
        height, width = quarter(resolution, options.name)
        self.layers = nn.Sequential(
            nn.Linear(options.latent, 256 * height * width),
            nn.Unflatten(1, (256, height, width)),
            AlignedUpsample(),
            *_convolution(256, 128),
            AlignedUpsample(),
            *_convolution(128, 64),
            nn.Conv2d(64, channels, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.layers(latents)) - 1


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,).

    A score is the logit, log(p / (1 - p)): here the final sigmoid of the original is part of the loss.
    """

    def __init__(self, options: GanBceOptions, resolution: Resolution, channels: int) -> None:
        height, width = quarter(resolution, options.name)
        layers = nn.Sequential(
            ToUnitRange(),
            *_convolution(channels, 16),
            nn.MaxPool2d(2),
            *_convolution(16, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
        )
        super().__init__(layers, Score(64 * height * width))


class ToUnitRange(nn.Module):
    """Converts images from [-1, 1] to [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + 1) / 2


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
