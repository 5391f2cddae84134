"""The residual networks of the WGAN-GP paper (Gulrajani et al. 2017).

The generator starts with 4 x 4 maps, and each block doubles their sides. At 32 pixels, all blocks have `width`
channels and the critic ends with 8 x 8 maps, as in the authors' code for CIFAR-10. At 64 pixels, the channels double
from `width` next to the image to 8 x `width`, and the critic ends with 4 x 4 maps. 128 pixels, which the authors do
not have, add one more block with 8 x `width` channels. Images that are not square have the blocks of their shorter
side: those of 96 x 64 start with 6 x 4 maps.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import initialisation
from pipeline.models.attention import SelfAttention
from pipeline.models.class_inputs import ClassLatents, LabelledSequential, TakesLabels, class_norm
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.scattered import ScatteredConv2d
from pipeline.models.sides import Resolution, as_option, described
from pipeline.models.spectral_norm import normalise_spectra
from pipeline.option_types import sides_of
from pipeline.options import Norm, ResnetOptions

MULTIPLES = {32: (1, 1, 1, 1), 64: (1, 2, 4, 8, 8), 128: (1, 2, 4, 8, 8, 8)}
"""The channels of all maps for each length of the shorter side, starting next to the image, as multiples of `width`."""


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(
        self, options: ResnetOptions, resolution: Resolution, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        widths = plan(options, resolution)
        self.deepest, *self.base = widths[-1], *smallest_maps(widths, resolution)
        self.inputs = ClassLatents(options.latent, classes)
        self.project = nn.Linear(self.inputs.width, self.deepest * math.prod(self.base))
        blocks: list[nn.Module] = [
            up_block(wide, narrow, classes) for wide, narrow in pairwise(reversed(widths))
        ]
        if options.attention:
            # The last block makes maps of the images' size.
            blocks.insert(len(blocks) - halvings_before_attention(resolution), attended(widths, resolution))
        self.blocks = LabelledSequential(*blocks)
        self.to_image = LabelledSequential(
            *_activation("batch", widths[0], classes), ScatteredConv2d(widths[0], channels, 3)
        )
        self.project.apply(initialisation.glorot_uniform)
        self.to_image.apply(initialisation.glorot_uniform)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(self.inputs(latents, labels)).view(-1, self.deepest, *self.base)
        return torch.tanh(self.to_image(self.blocks(maps, labels), labels))


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(
        self, options: ResnetOptions, resolution: Resolution, channels: int, classes: int = 0
    ) -> None:
        widths = plan(options, resolution)
        if min(sides_of(resolution)) == 32:
            layers = _to_means(options, channels)
            super().__init__(_attending(layers, options, widths, resolution), Score(options.width, classes))
        else:
            layers = _attending(_to_smallest(options, widths, channels), options, widths, resolution)
            super().__init__(
                layers, Score(widths[-1] * math.prod(smallest_maps(widths, resolution)), classes)
            )
        self.score.apply(initialisation.glorot_uniform)
        if options.spectral_norm:
            normalise_spectra(self)


def plan(options: ResnetOptions, resolution: Resolution) -> list[int]:
    """The channels of all maps, starting next to the image. Raises ConfigError for an unsupported resolution."""
    nearest = _nearest(resolution)
    if nearest != sides_of(resolution):
        raise ConfigError(
            f"model.name: resnet does not support images of {described(resolution)}: their shorter side must be 32, 64 "
            "or 128 pixels, and the longer one a multiple of 8, 16 or 32. Set "
            f"{as_option(nearest)}, or use another model.name (dcgan supports any size from 8 pixels)."
        )
    return [multiple * options.width for multiple in MULTIPLES[min(nearest)]]


def halvings_before_attention(resolution: Resolution) -> int:
    """How many blocks lie between images and the maps with self-attention, whose shorter side is 16 or 32."""
    return 2 if min(sides_of(resolution)) == 128 else 1


def attended(widths: list[int], resolution: Resolution) -> SelfAttention:
    """Self-attention for the maps of these networks that have it."""
    return SelfAttention(widths[halvings_before_attention(resolution)])


def smallest_maps(widths: list[int], resolution: Resolution) -> tuple[int, int]:
    """The (height, width) of the maps furthest from the image."""
    height, width = sides_of(resolution)
    halvings = len(widths) - 1
    return height >> halvings, width >> halvings


def _nearest(resolution: Resolution) -> tuple[int, int]:
    """The supported (height, width) nearest to this one; itself if it is supported."""
    height, width = sides_of(resolution)
    shorter = min(MULTIPLES, key=lambda side: abs(side - min(height, width)))
    if height == width:
        return shorter, shorter
    unit = shorter // 4
    longer = max(shorter, (max(height, width) + unit // 2) // unit * unit)
    return (shorter, longer) if height <= width else (longer, shorter)


def _to_means(options: ResnetOptions, channels: int) -> nn.Sequential:
    """Layers from images whose shorter side is 32 pixels to the mean of each of `width` channels over all pixels."""
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
    """Layers from images to the smallest maps."""
    first = _convolution(channels, widths[0]).apply(initialisation.glorot_uniform)
    blocks = [down_block(narrow, wide, options.critic_norm) for narrow, wide in pairwise(widths)]
    return nn.Sequential(first, *blocks)


def _attending(
    layers: nn.Sequential, options: ResnetOptions, widths: list[int], resolution: Resolution
) -> nn.Sequential:
    """The critic's layers, with self-attention if the options ask for it."""
    if not options.attention:
        return layers
    # At 32 pixels the first layer is a block that halves the sides; otherwise it is a convolution that does not.
    first = 0 if min(sides_of(resolution)) == 32 else 1
    place = first + halvings_before_attention(resolution)
    return nn.Sequential(*layers[:place], attended(widths, resolution), *layers[place:])


class Residual(TakesLabels, nn.Module):
    """The sum of a path and a shortcut. The weights of the shortcut are drawn after those of the path."""

    def __init__(self, path: LabelledSequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.path = path.apply(initialisation.he_uniform)
        self.shortcut = shortcut.apply(initialisation.glorot_uniform)

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        total: Tensor = self.path(maps, labels) + self.shortcut(maps)
        return total


def up_block(wide: int, narrow: int, classes: int = 0) -> Residual:
    """The generator's block: doubles the side by repeating each pixel."""
    path = LabelledSequential(
        *_activation("batch", wide, classes),
        nn.Upsample(scale_factor=2),
        _convolution(wide, narrow),
        *_activation("batch", narrow, classes),
        _convolution(narrow, narrow),
    )
    return Residual(path, nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 1)))


def down_block(narrow: int, wide: int, kind: Norm) -> Residual:
    """The critic's block: halves the side by the mean of 2 x 2 pixels."""
    path = LabelledSequential(
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
    path = LabelledSequential(
        _convolution(channels, width),
        nn.ReLU(),
        _convolution(width, width),
        nn.AvgPool2d(2),
    )
    return Residual(path, nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, width, 1)))


def plain_block(width: int, kind: Norm) -> Residual:
    """The critic's block that keeps the side and the channels."""
    path = LabelledSequential(
        *_activation(kind, width),
        _convolution(width, width),
        *_activation(kind, width),
        _convolution(width, width),
    )
    return Residual(path, nn.Identity())


def _activation(kind: Norm, channels: int, classes: int = 0) -> list[nn.Module]:
    # Not in place: the shortcut also needs the input of the block.
    return [class_norm(kind, channels, classes), nn.ReLU()]


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
