"""Shared by the tests of networks."""

from __future__ import annotations

from typing import Any

from torch import nn

KERNELS = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def count(network: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def kernels(network: nn.Module) -> list[Any]:
    """The convolutions and linear layers of a network, in order; `Any`, because a module's attributes have no types."""
    return [layer for layer in network.modules() if isinstance(layer, KERNELS)]


def kinds(network: nn.Module) -> list[str]:
    """The names of the classes of its layers, in order."""
    return [type(layer).__name__ for layer in network.modules() if not list(layer.children())]
