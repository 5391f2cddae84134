"""How labels enter networks. All are int64 (batch,), from 0 to the number of classes - 1.

Generators also take float32 (batch, classes): the shares of classes in each image, whose vectors are mixed.

    generators   `ClassLatents`: a learned vector of the class beside the latent
                 `class_norm`: a gain and a shift of each channel for each class, after a norm (conditional batch norm)
    critics      `models.critic.Projection`: a linear score of each class, added to the one of all
    in between   `LabelledSequential` hands labels to those of its layers that take them, and `given` binds them to a
                 network for callers that know nothing of labels

With 0 classes each of these is what a network without labels has: the same layers, tensors and random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.norms import norm
from pipeline.options import Norm

Network = Callable[..., Tensor]


class TakesLabels:
    """A layer whose `forward` takes labels after its input; None without classes."""


class LabelledSequential(TakesLabels, nn.Sequential):
    """Layers one after the other, which get the labels if they take them."""

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        for layer in self:
            values = layer(values, labels) if isinstance(layer, TakesLabels) else layer(values)
        return values


class ClassNorm(TakesLabels, nn.Module):
    """A norm whose result is scaled and shifted for each class (Dumoulin et al. 2017; de Vries et al. 2017).

    All classes start alike, with gains of 1 and shifts of 0.
    """

    def __init__(self, norm: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = norm
        self.gains, self.shifts = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.gains.weight)
        nn.init.zeros_(self.shifts.weight)

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, channels, height, width) to the same shape."""
        normalised: Tensor = self.norm(maps)
        gains, shifts = (
            vectors(values, labels).to(normalised.dtype)[:, :, None, None]
            for values in (self.gains, self.shifts)
        )
        result: Tensor = normalised * gains + shifts
        return result


def class_norm(name: Norm, channels: int, classes: int) -> nn.Module:
    """The norm of this name, for each class if there are classes. Without a norm there is nothing to scale."""
    layer = norm(name, channels)
    return ClassNorm(layer, channels, classes) if classes and name != "none" else layer


class ClassLatents(TakesLabels, nn.Module):
    """Latents (batch, latent), each followed by as many learned numbers of its class; without classes latents alone."""

    def __init__(self, latent: int, classes: int) -> None:
        super().__init__()
        self.width = 2 * latent if classes else latent
        """Numbers of each row of the result."""
        # N(0, 1), as the latents are.
        self.vectors = nn.Embedding(classes, latent) if classes else None

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """float32 (batch, latent) to (batch, width)."""
        return latents if self.vectors is None else torch.cat([latents, vectors(self.vectors, labels)], 1)


@dataclass(frozen=True)
class Given:
    """A network that is called with the labels of its inputs, int64 (batch,)."""

    network: Network
    labels: Tensor

    def __call__(self, inputs: Tensor, **options: Any) -> Tensor:
        """The network's result for a batch, or for several versions of it, one after the other."""
        versions = len(inputs) // len(self.labels)
        labels = self.labels if versions == 1 else self.labels.repeat(versions)
        return self.network(inputs, labels=labels, **options)


def given(network: Network, labels: Tensor | None) -> Network:
    """The network with these labels; as it is if there are none, so that it need not know of any."""
    return network if labels is None else Given(network, labels)


def vectors(table: nn.Embedding, labels: Tensor | None) -> Tensor:
    """The vector of each label, or the mean of those of all classes by their shares: (batch, width)."""
    labels = needed(labels)
    found: Tensor = labels @ table.weight if labels.is_floating_point() else table(labels)
    return found


def can_mix_classes(network: nn.Module) -> bool:
    """Whether a generator takes shares of classes in place of labels."""
    return any(isinstance(module, ClassLatents | ClassNorm) for module in network.modules())


def needed(labels: Tensor | None) -> Tensor:
    """The labels. Raises ConfigError if there are none."""
    if labels is None:
        raise ConfigError(
            "This network makes images of classes, and it was given no labels. Call it with labels, int64 (batch,): "
            "places of classes, counted from 0."
        )
    return labels
