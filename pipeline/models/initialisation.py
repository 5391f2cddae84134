"""Initial weights: each function initialises one layer, for use with `network.apply`.

The weights of convolutions and linear layers are drawn from torch's global generator, and their biases are 0. Norms
keep PyTorch's weights of 1 and biases of 0, except with `dcgan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn


def dcgan(layer: nn.Module) -> None:
    """Weights N(0, 0.02) (Radford et al. 2016), and batch norm weights N(1, 0.02) as in the authors' code."""
    normal(layer)
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def normal(layer: nn.Module) -> None:
    """Weights N(0, 0.02), as in the reference systems wgan-mnist and wgan-digit7."""
    _draw(layer, lambda weight: nn.init.normal_(weight, 0.0, 0.02))


def glorot_uniform(layer: nn.Module) -> None:
    """Weights U(-a, a) with the variance 2 / (fan in + fan out) (Glorot, Bengio 2010, equation 16)."""
    _draw(layer, nn.init.xavier_uniform_)


def he_uniform(layer: nn.Module) -> None:
    """Weights U(-a, a) with the variance 4 / (fan in + fan out), for layers between ReLUs.

    The WGAN-GP authors' version of He et al. 2015: twice Glorot's variance, because a ReLU halves it.
    """
    _draw(layer, lambda weight: nn.init.xavier_uniform_(weight, math.sqrt(2)))


def he_normal(layer: nn.Module) -> None:
    """Weights N(0, sqrt(2 / fan in)), for layers between ReLUs (He et al. 2015, section 2.2)."""
    _draw(layer, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))


def _draw(layer: nn.Module, draw: Callable[[Tensor], object]) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        draw(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
