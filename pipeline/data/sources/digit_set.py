"""Handwritten digits that are in memory as one array: what `digits` and `mnist` give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import Sample


class DigitSet:
    """`images` is uint8 (count, height, width), grey; `labels` holds as many ints of 0 to 9."""

    classes = tuple("0123456789")
    native_channels = 1

    def __init__(
        self, name: str, native_resolution: int, images: npt.NDArray[np.uint8], labels: list[int]
    ) -> None:
        self.name, self.native_resolution = name, native_resolution
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Sample]:
        for position, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            yield Sample(str(position), image, label)
