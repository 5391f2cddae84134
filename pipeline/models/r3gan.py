"""Residual networks of grouped convolutions without norms, after R3GAN (Huang et al. 2024, section 4, configuration E).

Both networks are stages of `blocks` residual blocks, mirrored, with as many channels as `width` next to the image,
doubled at each halving of the sides. A block is a 1 x 1 convolution to twice the channels, a 3 x 3 convolution in
groups of 16 channels, and a 1 x 1 convolution back, whose weights start at 0: every block starts as the identity
(fixup, Zhang et al. 2019). The generator starts with learned maps that the latent scales, and the critic ends with one
weight for each value of its last maps. Unlike in the paper, the generator ends with a tanh: images are in [-1, 1].
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.class_inputs import ClassLatents
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.sides import Resolution, as_option, described
from pipeline.models.upsampling import BilinearUpsample
from pipeline.option_types import sides_of
from pipeline.options import R3ganOptions

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

GROUP, EXPANSION, SLOPE = 16, 2, 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""By which a leaky ReLU makes values smaller, on average."""
LEAST_BASE, MOST_BASE = 4, 8
"""The shorter side of the smallest maps is within these."""


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(
        self, options: R3ganOptions, resolution: Resolution, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        widths, base = plan(options, resolution)
        self.basis = nn.Parameter(torch.randn(widths[-1], *base))
        self.inputs = ClassLatents(options.latent, classes)
        self.scales = drawn(nn.Linear(self.inputs.width, widths[-1], bias=False), 1.0)
        depth = options.blocks * len(widths)
        layers = [*_blocks(widths[-1], options.blocks, depth)]
        for wide, narrow in pairwise(reversed(widths)):
            layers += [BilinearUpsample(), *_widened(wide, narrow), *_blocks(narrow, options.blocks, depth)]
        self.layers = nn.Sequential(*layers)
        self.to_image = drawn(nn.Conv2d(widths[0], channels, 1), 1.0)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.basis * self.scales(self.inputs(latents, labels))[:, :, None, None]
        return torch.tanh(self.to_image(self.layers(maps)))


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(
        self, options: R3ganOptions, resolution: Resolution, channels: int, classes: int = 0
    ) -> None:
        widths, base = plan(options, resolution)
        depth = options.blocks * len(widths)
        layers: list[nn.Module] = [drawn(nn.Conv2d(channels, widths[0], 1), 1.0)]
        layers += _blocks(widths[0], options.blocks, depth)
        for narrow, wide in pairwise(widths):
            layers += [nn.AvgPool2d(2), *_widened(narrow, wide), *_blocks(wide, options.blocks, depth)]
        super().__init__(nn.Sequential(*layers, Basis(widths[-1], base)), Score(widths[-1], classes))
        for layer in self.score.modules():
            if isinstance(layer, nn.Linear):
                drawn(layer, 1.0)


class Basis(nn.Module):
    """One number for each channel of maps of this size: the sum of its values, each with a weight of its own."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, *size) / math.sqrt(math.prod(size)))

    def forward(self, maps: Tensor) -> Tensor:
        return (maps * self.weight).sum((2, 3))


def plan(options: R3ganOptions, resolution: Resolution) -> tuple[list[int], tuple[int, int]]:
    """The channels of all stages, starting next to the image, and the sides of the smallest maps.

    Raises ConfigError for an unsupported resolution.
    """
    height, width = sides_of(resolution)
    halvings = 0
    while not (height >> halvings) % 2 and not (width >> halvings) % 2:
        if min(height, width) >> (halvings + 1) < LEAST_BASE:
            break
        halvings += 1
    base = height >> halvings, width >> halvings
    if not LEAST_BASE <= min(base) <= MOST_BASE:
        unit = 2 ** max(0, round(math.log2(max(min(height, width), 4) / 6)))
        nearest = tuple(max(LEAST_BASE, round(side / unit)) * unit for side in (height, width))
        raise ConfigError(
            f"model.name: r3gan does not support images of {described(resolution)}: both sides must be halved until "
            f"the shorter one is {LEAST_BASE} to {MOST_BASE} pixels, and here it ends at {min(base)}. Set "
            f"{as_option((nearest[0], nearest[1]))}, or use another model.name (dcgan supports any size from 8 pixels)."
        )
    return [min(options.width * 2**stage, options.max_width) for stage in range(halvings + 1)], base


class Block(nn.Module):
    """The sum of maps and a path on them. `depth` is the number of blocks of the network."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        # With m weight layers in a path, fixup scales all but the last by depth to the power of -1 / (2m - 2).
        share = depth**-0.25
        self.path = nn.Sequential(
            drawn(nn.Conv2d(channels, inner, 1), GAIN * share),
            nn.LeakyReLU(SLOPE, inplace=True),
            drawn(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // GROUP), GAIN * share),
            nn.LeakyReLU(SLOPE, inplace=True),
            drawn(nn.Conv2d(inner, channels, 1, bias=False), 0.0),
        )

    def forward(self, maps: Tensor) -> Tensor:
        total: Tensor = maps + self.path(maps)
        return total


def drawn(layer: Layer, gain: float) -> Layer:
    """The layer with weights N(0, gain / sqrt(fan in)) and biases of 0."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _blocks(channels: int, count: int, depth: int) -> list[nn.Module]:
    return [Block(channels, depth) for _ in range(count)]


def _widened(before: int, after: int) -> list[nn.Module]:
    return [] if before == after else [drawn(nn.Conv2d(before, after, 1, bias=False), 1.0)]
