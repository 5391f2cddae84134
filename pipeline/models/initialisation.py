"""Starting weights by name: each function sets one layer, for `network.apply`.

The weights of convolutions and linear layers are drawn from torch's generator, their biases start at 0;
norms keep PyTorch's gains of 1 and biases of 0, but for `dcgan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn


def dcgan(layer: nn.Module) -> None:
    """Weights N(0, 0.02) (Radford et al. 2016); batch norm gains N(1, 0.02), as in the authors' code."""
    normal(layer)
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def normal(layer: nn.Module) -> None:
    """Weights N(0, 0.02) (the reference systems wgan-mnist and wgan-digit7)."""
    _draw(layer, lambda weight: nn.init.normal_(weight, 0.0, 0.02))


def glorot_uniform(layer: nn.Module) -> None:
    """Weights U(-a, a) of variance 2 / (fan in + fan out) (Glorot, Bengio 2010, equation 16)."""
    _draw(layer, nn.init.xavier_uniform_)


def he_uniform(layer: nn.Module) -> None:
    """Weights U(-a, a) of variance 4 / (fan in + fan out), for layers between ReLUs.

    The WGAN-GP authors' form of He et al. 2015: Glorot's variance, doubled because a ReLU halves it.
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
