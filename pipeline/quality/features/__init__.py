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


class Features(Protocol):
    """Maps uint8 images (count, channels, height, width) to float32 (count, dimensions), on their device."""

    @property
    def name(self) -> str:
        """Says which they are, for the record of a figure: "classifier 1f0c2a9e"."""
        ...

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class NoFeatures:
    """In place of features where no metric needs any."""

    name: str
    """Of those that the options choose, which are not there."""

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, 0)."""
        return images.new_zeros(len(images), 0, dtype=torch.float32)


def load_features(
    options: QualityOptions, classifier: ClassifierFeatures | None, device: torch.device
) -> Features:
    """The features that the options choose, where these are a network's.

    Raises ConfigError, DataError or CheckpointError where they cannot be had.
    """
    if options.features == "classifier":
        assert classifier is not None, "the config's rules see to that"
        return classifier
    return InceptionFeatures.load(Path(options.inception) if options.inception else None, device)
