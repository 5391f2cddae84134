"""What the tests of networks share."""

from __future__ import annotations

from typing import Any

from torch import nn

KERNELS = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def count(network: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def kernels(network: nn.Module) -> list[Any]:
    """Its convolutions and linear layers, in order; `Any`, because a module's attributes have no types."""
    return [layer for layer in network.modules() if isinstance(layer, KERNELS)]


def kinds(network: nn.Module) -> list[str]:
    """The names of its layers' classes, in order."""
    return [type(layer).__name__ for layer in network.modules() if not list(layer.children())]
