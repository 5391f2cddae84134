"""The networks of the reference systems wgan-mnist and wgan-digit7, for images whose sides are multiples of 4.

As in the original, the convolutions have biases, although the batch norm after them cancels them.
"""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models import initialisation
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.norms import BatchNorm2d
from pipeline.models.quartering import quarter
from pipeline.models.scattered import ScatteredConv2d
from pipeline.models.sides import Resolution
from pipeline.options import WganMnistOptions

EPSILON = 1e-3
"""Added to the variances in batch norm; the default of the library that the original uses.

The value matters: after a kernel whose weights are clipped to 0.01, the variances are of that size.
"""


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(self, options: WganMnistOptions, resolution: Resolution, channels: int) -> None:
        super().__init__()
        height, width = quarter(resolution, options.name)
        self.layers = nn.Sequential(
            nn.Linear(options.latent, 128 * height * width),
            nn.Unflatten(1, (128, height, width)),
            nn.LeakyReLU(0.2, inplace=True),
            *_doubling(),
            *_doubling(),
            ScatteredConv2d(128, channels, 7),
            nn.Tanh(),
        )
        self.apply(initialisation.normal)

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.layers(latents)
        return images


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(self, options: WganMnistOptions, resolution: Resolution, channels: int) -> None:
        height, width = quarter(resolution, options.name)
        layers = nn.Sequential(*_halving(channels), *_halving(64))
        super().__init__(layers, Score(64 * height * width))
        self.apply(initialisation.normal)


def _doubling() -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(128, 128, 4, stride=2, padding=1),
        BatchNorm2d(128, eps=EPSILON),
        nn.LeakyReLU(0.2, inplace=True),
    ]


def _halving(channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, 64, 4, stride=2, padding=1),
        BatchNorm2d(64, eps=EPSILON),
        nn.LeakyReLU(0.2, inplace=True),
    ]
