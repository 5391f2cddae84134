"""What images are compared by: one file for each kind of features."""

from __future__ import annotations

from collections.abc import Iterable
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
        """Says which they are, for the record of a figure: "classifier 1f0c2a9e"."""
        ...

    def __call__(self, images: Tensor) -> Tensor: ...


def build_features(
    options: QualityOptions,
    classifier: ClassifierFeatures | None,
    real: Iterable[Tensor],
    device: torch.device,
) -> Features:
    """The features that the options choose. `real` gives batches of the uint8 images that pixels' directions are of.

    Raises ConfigError, DataError or CheckpointError where they cannot be had.
    """
    if options.features == "classifier":
        assert classifier is not None, "the config's rules see to that"
        return classifier
    if options.features == "inception":
        return InceptionFeatures.load(Path(options.inception) if options.inception else None, device)
    return PixelFeatures.of(real)
