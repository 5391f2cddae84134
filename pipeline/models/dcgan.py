"""The DCGAN networks (Radford, Metz, Chintala 2016), for images of at least 8 pixels a side.

The critic halves the sides of its maps, rounding down, until the shorter one is 7 or less: 28, 14, 7 or 100, 50, 25,
12, 6; images of 90 x 160 become 45 x 80, 22 x 40, 11 x 20, 5 x 10. The generator doubles the sides through the same
numbers in reverse order. Each halving doubles the number of channels, from `width` next to the image up to `max_width`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import initialisation
from pipeline.models.class_inputs import ClassLatents, LabelledSequential, class_norm
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.norms import norm
from pipeline.models.scattered import ScatteredConvTranspose2d
from pipeline.models.sides import Resolution, as_option, described
from pipeline.models.spectral_norm import normalise_spectra
from pipeline.option_types import sides_of
from pipeline.options import DcganOptions

LARGEST_BASE = 7


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(
        self, options: DcganOptions, resolution: Resolution, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        sides, widths = plan(options, resolution)
        self.deepest, *self.base = widths[-1], *sides[-1]
        has_norm = options.generator_norm != "none"
        self.inputs = ClassLatents(options.latent, classes)
        self.project = nn.Linear(self.inputs.width, self.deepest * math.prod(self.base), bias=not has_norm)
        layers: list[nn.Module] = [
            class_norm(options.generator_norm, self.deepest, classes),
            nn.ReLU(inplace=True),
        ]
        for level in range(len(widths) - 1, 0, -1):
            layers += [
                _doubling(widths[level], widths[level - 1], sides[level], bias=not has_norm),
                class_norm(options.generator_norm, widths[level - 1], classes),
                nn.ReLU(inplace=True),
            ]
        self.layers = LabelledSequential(*layers)
        self.to_image = _doubling(widths[0], channels, sides[0], kind=ScatteredConvTranspose2d)
        self.apply(initialisation.dcgan)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(self.inputs(latents, labels)).view(-1, self.deepest, *self.base)
        return torch.tanh(self.to_image(self.layers(maps, labels)))


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(
        self, options: DcganOptions, resolution: Resolution, channels: int, classes: int = 0
    ) -> None:
        sides, widths = plan(options, resolution)
        has_norm = options.critic_norm != "none"
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for narrow, wide in pairwise(widths):
            layers += [
                nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=not has_norm),
                norm(options.critic_norm, wide),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        super().__init__(nn.Sequential(*layers), Score(widths[-1] * math.prod(sides[-1]), classes))
        self.apply(initialisation.dcgan)
        if options.spectral_norm:
            normalise_spectra(self)


def plan(options: DcganOptions, resolution: Resolution) -> tuple[list[tuple[int, int]], list[int]]:
    """The (height, width) of all maps, from the image to the smallest, and the channels of all maps except the image.

    Raises ConfigError for a side below 8.
    """
    height, width = sides_of(resolution)
    if min(height, width) <= LARGEST_BASE:
        least = LARGEST_BASE + 1
        raise ConfigError(
            f"model.name: dcgan does not support images of {described(resolution)}: they are too small to halve. It "
            f"needs at least {least} pixels in height and width. Set "
            f"{as_option((max(least, height), max(least, width)))}, or use model.name: mlp."
        )
    sides = [(height, width)]
    while min(sides[-1]) > LARGEST_BASE:
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    widths = [min(options.width * 2**level, options.max_width) for level in range(len(sides) - 1)]
    return sides, widths


def _doubling(
    wide: int,
    narrow: int,
    sides: tuple[int, int],
    bias: bool = True,
    kind: type[nn.ConvTranspose2d] = nn.ConvTranspose2d,
) -> nn.ConvTranspose2d:
    """A layer to maps of these sides from maps of half of them, rounded down."""
    odd = (sides[0] % 2, sides[1] % 2)
    return kind(wide, narrow, 4, stride=2, padding=1, output_padding=odd, bias=bias)
