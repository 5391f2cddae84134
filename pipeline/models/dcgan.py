"""The DCGAN pair (Radford, Metz, Chintala 2016), for square images of base x 2^k pixels.

`base` is 4, 5, 6 or 7: 28 pixels are 7 x 4, 64 are 4 x 16. The smallest maps are base x base; from there
each of the k levels doubles the side and halves the channels, down to `width` beside the image.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.norms import norm
from pipeline.options import DcganOptions

BASES = (4, 5, 6, 7)
LARGEST = 256


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, resolution, resolution) in [-1, 1]."""

    def __init__(self, options: DcganOptions, resolution: int, channels: int) -> None:
        super().__init__()
        base, widths = plan(options, resolution)
        self.base, self.deepest = base, widths[-1]
        has_norm = options.generator_norm != "none"
        self.project = nn.Linear(options.latent, self.deepest * base * base, bias=not has_norm)
        layers: list[nn.Module] = [norm(options.generator_norm, self.deepest), nn.ReLU(inplace=True)]
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers += [
                nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=not has_norm),
                norm(options.generator_norm, narrow),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.to_image = nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1)
        self.apply(_initialise)

    def forward(self, latents: Tensor) -> Tensor:
        maps = self.project(latents).view(-1, self.deepest, self.base, self.base)
        return torch.tanh(self.to_image(self.layers(maps)))


class Critic(nn.Module):
    """Images (batch, channels, resolution, resolution) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(self, options: DcganOptions, resolution: int, channels: int) -> None:
        super().__init__()
        base, widths = plan(options, resolution)
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
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1] * base * base, 1)
        self.apply(_initialise)

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        """`float32=True` switches mixed precision off inside, for gradients that must not be rounded."""
        with torch.autocast(images.device.type, enabled=False) if float32 else nullcontext():
            scores: Tensor = self.score(self.layers(images).flatten(1))
        return scores.squeeze(1)


def plan(options: DcganOptions, resolution: int) -> tuple[int, list[int]]:
    """The side of the smallest maps, and the channels of each level from the image inwards.

    Raises ConfigError for a resolution that is not base x 2^k with k >= 1, or is over 256.
    """
    levels, base = 0, resolution
    while base > max(BASES) and base % 2 == 0:
        levels, base = levels + 1, base // 2
    if base not in BASES or levels == 0 or resolution > LARGEST:
        sizes = sorted(b * 2**k for b in BASES for k in range(1, 7) if b * 2**k <= LARGEST)
        nearest = min(sizes, key=lambda size: abs(size - resolution))
        raise ConfigError(
            f"model.name: dcgan has no network for {resolution}x{resolution} images; it needs 4, 5, 6 or 7 times "
            f"a power of two, up to {LARGEST}. Make shards with --resolution {nearest}."
        )
    return base, [min(options.width * 2**level, options.max_width) for level in range(levels)]


def _initialise(module: nn.Module) -> None:
    """The paper's: weights N(0, 0.02), batch norm gains N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
