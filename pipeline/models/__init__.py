"""The networks: one file for each architecture, with a Generator and a Critic."""

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
    """Maps latents (batch, latent) to images (batch, channels, resolution, resolution) in [-1, 1].

    Raises ConfigError where the architecture has no network for the resolution.
    """
    generator: nn.Module = _architecture(options.name).Generator(options, resolution, channels)
    return generator


def build_critic(options: ModelOptions, resolution: int, channels: int) -> nn.Module:
    """Maps images (batch, channels, resolution, resolution) in [-1, 1] to scores (batch,).

    Called with `float32=True`, it leaves mixed precision. Raises ConfigError where the architecture has no
    network for the resolution.
    """
    critic: nn.Module = _architecture(options.name).Critic(options, resolution, channels)
    return critic


def _architecture(name: str) -> Any:
    """What has a Generator and a Critic: a module of this package, or a plug-in."""
    return ARCHITECTURES[name] if name in ARCHITECTURES else load_plugin("model.name", name)
