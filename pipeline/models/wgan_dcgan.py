"""The networks of the reference system wgan-dcgan, for images whose sides are multiples of 4."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models import initialisation
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.norms import BatchNorm2d
from pipeline.models.quartering import quarter
from pipeline.models.same_padding import SameConv2d, SameConvTranspose2d
from pipeline.models.sides import Resolution
from pipeline.options import WganDcganOptions

MOMENTUM = 0.2  # the weight of the newest batch, in PyTorch's convention; 0.8 in the original's


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(self, options: WganDcganOptions, resolution: Resolution, channels: int) -> None:
        super().__init__()
        height, width = quarter(resolution, options.name)
        self.layers = nn.Sequential(
            nn.Linear(options.latent, 32 * height * width),
            nn.Unflatten(1, (32, height, width)),
            BatchNorm2d(32, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(32, 128, 4, stride=2, padding=1),
            BatchNorm2d(128, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(128, 256, 4, stride=2, padding=1),
            BatchNorm2d(256, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
            SameConvTranspose2d(256, channels, 4),
            nn.Tanh(),
        )
        self.apply(initialisation.glorot_uniform)

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.layers(latents)
        return images


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(self, options: WganDcganOptions, resolution: Resolution, channels: int) -> None:
        height, width = quarter(resolution, options.name)
        layers = nn.Sequential(
            nn.Conv2d(channels, 256, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(256, 128, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            SameConv2d(128, 64, 4),
            nn.LeakyReLU(0.2, inplace=True),
        )
        super().__init__(layers, Score(64 * height * width))
        self.apply(initialisation.glorot_uniform)
