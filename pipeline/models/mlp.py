"""Fully connected networks, for images of any size (Arjovsky, Chintala, Bottou 2017, section 4.3).

The paper's generator has 4 hidden layers of 512 units, each with a ReLU; the critic here has the same hidden layers.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from pipeline.models import initialisation
from pipeline.models.class_inputs import ClassLatents
from pipeline.models.critic import BaseCritic, Score
from pipeline.models.sides import Resolution
from pipeline.models.spectral_norm import normalise_spectra
from pipeline.option_types import sides_of
from pipeline.options import MlpOptions


class Generator(nn.Module):
    """Latents (batch, latent) to images (batch, channels, height, width) in [-1, 1]."""

    def __init__(self, options: MlpOptions, resolution: Resolution, channels: int, classes: int = 0) -> None:
        super().__init__()
        height, width = sides_of(resolution)
        self.inputs = ClassLatents(options.latent, classes)
        self.hidden = _hidden(self.inputs.width, options)
        self.to_image = nn.Sequential(
            nn.Linear(options.width, channels * height * width),
            nn.Tanh(),
            nn.Unflatten(1, (channels, height, width)),
        )
        self.hidden.apply(initialisation.he_normal)
        self.to_image.apply(initialisation.glorot_uniform)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.to_image(self.hidden(self.inputs(latents, labels)))
        return images


class Critic(BaseCritic):
    """Images (batch, channels, height, width) in [-1, 1] to scores (batch,); higher is more real."""

    def __init__(self, options: MlpOptions, resolution: Resolution, channels: int, classes: int = 0) -> None:
        height, width = sides_of(resolution)
        hidden = _hidden(channels * height * width, options)
        super().__init__(nn.Sequential(nn.Flatten(), *hidden), Score(options.width, classes))
        self.layers.apply(initialisation.he_normal)
        self.score.apply(initialisation.glorot_uniform)
        if options.spectral_norm:
            normalise_spectra(self)


def _hidden(inputs: int, options: MlpOptions) -> nn.Sequential:
    widths = [inputs, *[options.width] * options.layers]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
