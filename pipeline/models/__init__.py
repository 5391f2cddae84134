"""The networks: one file per architecture, each with a Generator and a Critic."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pipeline.errors import ConfigError
from pipeline.models import dcgan, gan_bce, mlp, r3gan, resnet, wgan_dcgan, wgan_mnist
from pipeline.models.norms import BatchNorm2d
from pipeline.models.sides import Resolution, as_option, described, simplest
from pipeline.options import ModelOptions
from pipeline.plugins import NETWORK, is_import_path, load_plugin

ARCHITECTURES: dict[str, Any] = {
    "dcgan": dcgan,
    "mlp": mlp,
    "resnet": resnet,
    "r3gan": r3gan,
    "wgan_mnist": wgan_mnist,
    "wgan_dcgan": wgan_dcgan,
    "gan_bce": gan_bce,
}

CONDITIONAL = "dcgan, mlp, resnet or r3gan"
"""The built-in architectures that take labels. Those of reference systems stay as they were published."""


def build_generator(
    options: ModelOptions, resolution: Resolution, channels: int, classes: int = 0
) -> nn.Module:
    """A network from latents (batch, latent) to images (batch, channels, height, width) in [-1, 1].

    With classes it is called with labels too, int64 (batch,). Raises ConfigError if the architecture does not support
    the resolution, or classes.
    """
    generator: nn.Module = _built(options, "Generator", resolution, channels, classes)
    if is_import_path(options.name):
        refuse_what_differs_between_ranks(options.name, generator, options.generator_norm)
    return generator


def build_critic(options: ModelOptions, resolution: Resolution, channels: int, classes: int = 0) -> nn.Module:
    """A network from images (batch, channels, height, width) in [-1, 1] to scores (batch,).

    With classes it is called with labels too, int64 (batch,). A call with `float32=True` computes in float32 even
    inside autocast. Raises ConfigError if the architecture does not support the resolution, or classes.
    """
    critic: nn.Module = _built(options, "Critic", resolution, channels, classes)
    if is_import_path(options.name):
        refuse_what_differs_between_ranks(options.name, critic, options.critic_norm)
        refuse_fixed_precision(options.name, critic)
    return critic


def _built(
    options: ModelOptions, kind: str, resolution: Resolution, channels: int, classes: int
) -> nn.Module:
    """A "Generator" or a "Critic" for images of this size."""
    build: Callable[..., nn.Module] = getattr(_architecture(options.name), kind)
    size = simplest(resolution)
    if classes and "classes" not in inspect.signature(build).parameters:
        raise ConfigError(
            f"model.conditional: the {kind} of model.name: {options.name} takes no labels. Use {CONDITIONAL}, or set "
            "it to false; networks of your own take `classes` and labels as docs/extending.md shows."
        )
    try:
        return build(options, size, channels, *([classes] if classes else []))
    except TypeError as error:
        if not is_import_path(options.name) or isinstance(size, int):
            raise
        raise ConfigError(
            f"model.name: {options.name} cannot make its {kind} for images of {described(size)}: {error}. Its "
            "`resolution` is (height, width) for images that are not square. Use both in it, or set "
            f"{as_option(min(size))}."
        ) from error


def _architecture(name: str) -> Any:
    """The object with a Generator and a Critic: a module of this package, or a plug-in."""
    return ARCHITECTURES[name] if name in ARCHITECTURES else load_plugin(NETWORK, name)


def refuse_what_differs_between_ranks(name: str, network: nn.Module, norm: str) -> None:
    """Raise ConfigError if a plug-in's network has layers whose result depends on the number of ranks or on a resume.

    `norm` is what its options say of its normalization.
    """
    for path, layer in network.named_modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, BatchNorm2d):
            raise ConfigError(
                f"model.name: {path} of {name} is a torch {type(layer).__name__}, whose statistics are those of one "
                "rank, so that the result would depend on the number of ranks. Use pipeline.models.norms.BatchNorm2d "
                "instead."
            )
        if isinstance(layer, BatchNorm2d) and norm != "batch":
            raise ConfigError(
                f"model.name: {path} of {name} is a batch norm, and its Options say {norm}. Set generator_norm or "
                'critic_norm to "batch" in them: it decides what a resumed run may change.'
            )
        if isinstance(layer, _DropoutNd):
            raise ConfigError(
                f"model.name: {path} of {name} is a {type(layer).__name__}, whose random numbers depend on the "
                "number of ranks, and are not those of an uninterrupted run after a resume. Remove it."
            )


def refuse_fixed_precision(name: str, critic: nn.Module) -> None:
    """Raise ConfigError if a plug-in's critic cannot be asked for float32 scores."""
    if "float32" not in inspect.signature(critic.forward).parameters:
        raise ConfigError(
            f"model.name: the critic of {name} must take float32=True and then leave mixed precision: a gradient "
            "penalty and the diagnostics need it. Subclass pipeline.models.critic.BaseCritic, which does that."
        )
