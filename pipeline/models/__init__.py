"""The networks: one file per architecture, each with a Generator and a Critic."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.models import dcgan, gan_bce, mlp, resnet, wgan_dcgan, wgan_mnist
from pipeline.options import ModelOptions
from pipeline.plugins import load_plugin

ARCHITECTURES: dict[str, Any] = {
    "dcgan": dcgan,
    "mlp": mlp,
    "resnet": resnet,
    "wgan_mnist": wgan_mnist,
    "wgan_dcgan": wgan_dcgan,
    "gan_bce": gan_bce,
}


def build_generator(options: ModelOptions, resolution: int, channels: int) -> nn.Module:
    """A network from latents (batch, latent) to images (batch, channels, resolution, resolution) in [-1, 1].

    Raises ConfigError if the architecture does not support the resolution.
    """
    generator: nn.Module = _architecture(options.name).Generator(options, resolution, channels)
    return generator


def build_critic(options: ModelOptions, resolution: int, channels: int) -> nn.Module:
    """A network from images (batch, channels, resolution, resolution) in [-1, 1] to scores (batch,).

    A call with `float32=True` computes in float32 even inside autocast. Raises ConfigError if the architecture does
    not support the resolution.
    """
    critic: nn.Module = _architecture(options.name).Critic(options, resolution, channels)
    return critic


def _architecture(name: str) -> Any:
    """The object with a Generator and a Critic: a module of this package, or a plug-in."""
    return ARCHITECTURES[name] if name in ARCHITECTURES else load_plugin("model.name", name)
