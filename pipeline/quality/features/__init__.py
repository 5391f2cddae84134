"""What images are compared by: one file for each kind of features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pipeline.options import QualityOptions
from pipeline.quality.features.classifier import ClassifierFeatures
from pipeline.quality.features.inception import InceptionFeatures
from pipeline.quality.features.pixels import PixelFeatures


class Features(Protocol):
    """Maps uint8 images (count, channels, height, width) to float32 (count, dimensions), on their device."""

    @property
    def name(self) -> str:
        """Which features they are, for the records of evaluations: "classifier 1f0c2a9e"."""
        ...

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class NoFeatures:
    """Used instead of features if no metric needs any."""

    name: str
    """The name of the features that the options choose, for the records."""

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, 0)."""
        return images.new_zeros(len(images), 0, dtype=torch.float32)


def load_features(
    options: QualityOptions,
    classifier: ClassifierFeatures | None,
    shape: tuple[int, int, int],
    device: torch.device,
) -> Features:
    """The features that the options choose, for images (channels, height, width).

    Raises ConfigError, DataError or CheckpointError if the weights of a network cannot be loaded.
    """
    if options.features == "pixels":
        return PixelFeatures(shape, device)
    if options.features == "classifier":
        assert classifier is not None, "the config's rules require one"
        return classifier
    return InceptionFeatures.load(Path(options.inception) if options.inception else None, device)
