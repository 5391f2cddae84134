"""The base class of all critics."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.models.class_inputs import given, needed


class Projection(nn.Linear):
    """A score of each image that is linear in its features, with weights of its own for each class.

    It is the projection of the features on a vector of the class (Miyato, Koyama 2018). Without a bias: the score of
    all classes has one.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes, bias=False)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features (batch, features) or maps (batch, channels, height, width) to scores (batch,)."""
        weights = F.embedding(needed(labels), self.weight).view(features.shape)
        if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
            # So that the gradient of the maps has their memory format.
            weights = weights.contiguous(memory_format=torch.channels_last)
        return (features * weights).sum(tuple(range(1, features.ndim)))

    def log_likelihood(self, features: Tensor, labels: Tensor) -> Tensor:
        """log p(label | image), where exp of the score of each class is proportional to its probability: (batch,)."""
        logarithms = super().forward(features.flatten(1)).log_softmax(1)
        return logarithms.gather(1, labels[:, None]).squeeze(1)


class Score(nn.Linear):
    """One score per image, linear in all features of the image; with classes, plus the `Projection` on its class."""

    def __init__(self, features: int, classes: int = 0) -> None:
        super().__init__(features, 1)
        self.of_class = Projection(features, classes) if classes else None

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features (batch, features) or maps (batch, channels, height, width) to scores (batch,)."""
        scores = self._of_all(features)
        return scores if self.of_class is None else scores + self.of_class(features, labels)

    def log_likelihood(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """log p(label | image), as the scores of all classes say it: (batch,). Raises ConfigError without classes."""
        if self.of_class is None:
            raise ConfigError(
                "objective.class_loss: needs a critic with classes. Set model.conditional: true, or leave it out."
            )
        # What all classes have in common cancels.
        return self.of_class.log_likelihood(features, needed(labels))

    def _of_all(self, features: Tensor) -> Tensor:
        if features.ndim < 4 or not features.is_contiguous(memory_format=torch.channels_last):
            return super().forward(features.flatten(1)).squeeze(1)
        # Flatten channels-last maps in their memory order. Flattening them by channel would copy them, and their
        # gradient would have another memory format than the maps, which slows down the rest of the backward pass.
        weight = self.weight.view(1, *features.shape[1:])
        pixels, weights = (values.permute(0, 2, 3, 1).flatten(1) for values in (features, weight))
        return F.linear(pixels, weights, self.bias).squeeze(1)


class BaseCritic(nn.Module):
    """Images (batch, channels, height, width) in [-1, 1] to unbounded scores (batch,).

    `layers` maps images to features of any shape, and `score` is linear in all features of an image.
    """

    def __init__(self, layers: nn.Module, score: Score) -> None:
        super().__init__()
        self.layers = layers
        self.score = score

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        float32: bool = False,
        classify: bool = False,
    ) -> Tensor:
        """`labels`: int64 (batch,), if the critic has classes. With `classify=True`, log p(label | image) of each.

        With `float32=True`, autocast is disabled, for gradients that must not be rounded to half precision.
        """
        with torch.autocast(images.device.type, enabled=False) if float32 else nullcontext():
            features = self.layers(images)
            if classify:
                return self.score.log_likelihood(features, labels)
            return given(self.score, labels)(features)
