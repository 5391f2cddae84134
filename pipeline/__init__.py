"""Distributed training of Wasserstein GANs on sharded image data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.run.generator import TrainedGenerator


def load_generator(
    path: str | Path, checkpoint: int | Literal["best"] | None = None, use_ema: bool = True
) -> TrainedGenerator:
    """The trained generator of a run, of one of its checkpoints, or of a file made by `wgan export`.

    Of a run it takes the newest checkpoint, that of the step `checkpoint`, or the best; and the moving average of the
    weights, or the last ones. `load_generator("runs/digits").sample(16)` are images, float32
    (16, channels, height, width) in [-1, 1]. Raises ConfigError or CheckpointError.
    """
    # Not above: commands that need no torch import this package too, and are quick.
    from pipeline.run.generator import read_generator

    return read_generator(Path(path), checkpoint, use_ema)
