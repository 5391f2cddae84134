"""Real images from shards and generated images from a run, both as uint8 (count, channels, height, width).

Generated images are rounded to 8 bits, as in a PNG, so that rounding does not tell the two kinds apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.format.shard_set import open_directory
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError, DataError
from pipeline.options import Config
from pipeline.pixels import to_uint8
from pipeline.run.checkpoint import Checkpoint
from pipeline.run.generator import read_generator


class LabelledImages(NamedTuple):
    """Real images uint8 (count, channels, height, width), and labels int64 (count,), indices into `classes`."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def of_classes(self, names: Sequence[str] | None) -> Tensor:
        """The images of the classes `names`, each of which must be in `classes`; all images if `names` is None."""
        if names is None:
            return self.images
        labels = torch.tensor([self.classes.index(name) for name in names])
        return self.images[torch.isin(self.labels, labels)]


def read_shards(directory: Path) -> LabelledImages:
    """All images of a shard directory, in its order. Raises DataError if it is damaged or has no labels."""
    shards = open_directory(directory)
    manifest = shards.manifest
    if not manifest.classes:
        raise DataError(
            f"The images of {directory} have no labels, which are needed here. Name the shards of a labelled set."
        )
    images = ShardReader(shards).read(np.arange(manifest.count)).contiguous()
    labels = np.concatenate([shards.load_index(shard)[:, 2] for shard in manifest.shards])
    return LabelledImages(images, torch.from_numpy(labels), manifest.classes)


def check_comparable(config: Config, checkpoint: Checkpoint, real: LabelledImages) -> None:
    """Raise ConfigError unless the run's images have the size of the real ones and the real ones have its classes."""
    remedy = "Name shards of the images that the run was trained on."
    drawn, expected = list(checkpoint.facts().identity.images), list(real.images.shape[1:])
    if drawn != expected:
        raise ConfigError(
            f"{checkpoint.path} draws images of (channels, height, width) {drawn}, but the real images have "
            f"{expected}, so they cannot be compared. {remedy}"
        )
    if unknown := [name for name in config.data.classes or [] if name not in real.classes]:
        raise ConfigError(
            f"{checkpoint.path} was trained on class {', '.join(unknown)}, but the real images have only the classes "
            f"{', '.join(real.classes)}. {remedy}"
        )


def draw_from_run(checkpoint: Checkpoint, count: int, seed: int, use_ema: bool) -> Tensor:
    """`count` images of a checkpoint's generator, on the host. The same seed gives the same latents."""
    return to_uint8(read_generator(checkpoint.path, use_ema=use_ema).sample(count, seed)).cpu()
