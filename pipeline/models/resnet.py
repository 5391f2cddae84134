"""The residual networks of the WGAN-GP paper (Gulrajani et al. 2017).

The generator starts with 4 x 4 maps, and each block doubles their side. At 32 pixels, all blocks have `width`
channels and the critic ends with 8 x 8 maps, as in the authors' code for CIFAR-10. At 64 pixels, the channels double
from `width` next to the image to 8 x `width`, and the critic ends with 4 x 4 maps. 128 pixels, which the authors do
not have, add one more block with 8 x `width` channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import initialisation
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.norms import norm
from pipeline.models.scattered import ScatteredConv2d
from pipeline.models.spectral_norm import normalise_spectra
from pipeline.options import Norm, ResnetOptions

SMALLEST = 4
MULTIPLES = {32: (1, 1, 1, 1), 64: (1, 2, 4, 8, 8), 128: (1, 2, 4, 8, 8, 8)}
"""The channels of all maps for each resolution, starting next to the image, as multiples of `width`."""


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, resolution, resolution) in [-1, 1]."""

    def __init__(self, options: ResnetOptions, resolution: int, channels: int) -> None:
        super().__init__()
        widths = plan(options, resolution)
        self.deepest = widths[-1]
        self.project = nn.Linear(options.latent, self.deepest * SMALLEST**2)
        self.blocks = nn.Sequential(*[up_block(wide, narrow) for wide, narrow in pairwise(reversed(widths))])
        self.to_image = nn.Sequential(
            *_activation("batch", widths[0]), ScatteredConv2d(widths[0], channels, 3)
        )
        self.project.apply(initialisation.glorot_uniform)
        self.to_image.apply(initialisation.glorot_uniform)

    def forward(self, latents: Tensor) -> Tensor:
        maps = self.project(latents).view(-1, self.deepest, SMALLEST, SMALLEST)
        return torch.tanh(self.to_image(self.blocks(maps)))


class Critic(BaseCritic):
    """Images (batch, channels, resolution, resolution) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(self, options: ResnetOptions, resolution: int, channels: int) -> None:
        widths = plan(options, resolution)
        if resolution == 32:
            super().__init__(_to_means(options, channels), Score(options.width))
        else:
            layers = _to_smallest(options, widths, channels)
            super().__init__(layers, Score(widths[-1] * SMALLEST**2))
        self.score.apply(initialisation.glorot_uniform)
        if options.spectral_norm:
            normalise_spectra(self)


def plan(options: ResnetOptions, resolution: int) -> list[int]:
    """The channels of all maps, starting next to the image. Raises ConfigError for an unsupported resolution."""
    if resolution not in MULTIPLES:
        nearest = min(MULTIPLES, key=lambda size: abs(size - resolution))
        raise ConfigError(
            f"model.name: resnet does not support images of {resolution}x{resolution}, only of 32, 64 and 128 "
            f"pixels. Make shards with --resolution {nearest}, or use another model.name (dcgan supports any size "
            "from 8 pixels)."
        )
    return [multiple * options.width for multiple in MULTIPLES[resolution]]


def _to_means(options: ResnetOptions, channels: int) -> nn.Sequential:
    """Layers from images of 32 pixels to the mean of each of `width` channels over all pixels."""
    width, kind = options.width, options.critic_norm
    return nn.Sequential(
        first_block(channels, width),
        down_block(width, width, kind),
        plain_block(width, kind),
        plain_block(width, kind),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
    )


def _to_smallest(options: ResnetOptions, widths: list[int], channels: int) -> nn.Sequential:
    """Layers from images to maps of 4 x 4."""
    first = _convolution(channels, widths[0]).apply(initialisation.glorot_uniform)
    blocks = [down_block(narrow, wide, options.critic_norm) for narrow, wide in pairwise(widths)]
    return nn.Sequential(first, *blocks)


class Residual(nn.Module):
    """The sum of a path and a shortcut. The weights of the shortcut are drawn after those of the path."""

    def __init__(self, path: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.path = path.apply(initialisation.he_uniform)
        self.shortcut = shortcut.apply(initialisation.glorot_uniform)

    def forward(self, maps: Tensor) -> Tensor:
        total: Tensor = self.path(maps) + self.shortcut(maps)
        return total


def up_block(wide: int, narrow: int) -> Residual:
    """The generator's block: doubles the side by repeating each pixel."""
    path = nn.Sequential(
        *_activation("batch", wide),
        nn.Upsample(scale_factor=2),
        _convolution(wide, narrow),
        *_activation("batch", narrow),
        _convolution(narrow, narrow),
    )
    return Residual(path, nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 1)))


def down_block(narrow: int, wide: int, kind: Norm) -> Residual:
    """The critic's block: halves the side by the mean of 2 x 2 pixels."""
    path = nn.Sequential(
        *_activation(kind, narrow),
        _convolution(narrow, narrow),
        *_activation(kind, narrow),
        _convolution(narrow, wide),
        nn.AvgPool2d(2),
    )
    # The mean and a 1 x 1 convolution can be swapped, and in this order the convolution has a quarter of the work.
    return Residual(path, nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(narrow, wide, 1)))


def first_block(channels: int, width: int) -> Residual:
    """The block next to the image. It starts with a convolution, because a ReLU would set the dark pixels to 0."""
    path = nn.Sequential(
        _convolution(channels, width),
        nn.ReLU(),
        _convolution(width, width),
        nn.AvgPool2d(2),
    )
    return Residual(path, nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, width, 1)))


def plain_block(width: int, kind: Norm) -> Residual:
    """The critic's block that keeps the side and the channels."""
    path = nn.Sequential(
        *_activation(kind, width),
        _convolution(width, width),
        *_activation(kind, width),
        _convolution(width, width),
    )
    return Residual(path, nn.Identity())


def _activation(kind: Norm, channels: int) -> list[nn.Module]:
    # Not in place: the shortcut also needs the input of the block.
    return [norm(kind, channels), nn.ReLU()]


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
