"""The real images that an evaluation compares samples with: which they are, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from pipeline.data.reading.stream import Ids
from pipeline.quality.asked_classes import AskedClasses


def no_classes(ids: Ids) -> list[str | None]:
    """Of images without labels."""
    return [None] * len(ids)


@dataclass(frozen=True)
class RealImages:
    """The images that samples are compared with."""

    read: Callable[[Ids], Tensor]
    """From ids to uint8 (count, 1 or 3, height, width) on the device; images with alpha are on white."""
    shape: tuple[int, int, int]
    """(1 or 3, height, width)"""
    compared: Ids
    """A random part of the training images, or all."""
    training: Callable[[], Ids]
    """All training images, which may be many: only some metrics need them."""
    held_out: Callable[[], Ids]
    """All images that are held out."""
    held_out_count: int
    others: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """More training images, drawn in the same way: as many as are compared, or fewer if there are no more."""
    asked: AskedClasses | None = None
    """The classes that samples are drawn of; None if the generator takes no labels."""
    classes: Callable[[Ids], Sequence[str | None]] = no_classes
    """From ids to the names of their classes, None where there is no label."""
