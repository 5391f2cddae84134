"""Images that are in memory as one array, as in many small named sets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import NOTHING_TO_SAY, Pixels, Remarks
from pipeline.errors import DataError
from pipeline.wording import counted


class InMemory:
    """A source of `images`, uint8 (count, height, width) or (count, height, width, 3).

    `labels` are int64 (count,), or None. Raises DataError if there are not as many labels as images, or if a label
    is outside the classes.
    """

    def __init__(
        self,
        name: str,
        images: Pixels,
        labels: npt.NDArray[np.int64] | None = None,
        classes: tuple[str, ...] = (),
        remarks: Remarks = NOTHING_TO_SAY,
    ) -> None:
        self.name, self.classes, self.remarks = name, classes, remarks
        self.native_resolution: tuple[int, int] = (images.shape[1], images.shape[2])
        self.native_channels = 1 if images.ndim == 3 else 3
        if labels is not None:
            if len(labels) != len(images):
                raise DataError(
                    f"{name} has {counted(len(images), 'image')} but {counted(len(labels), 'label')}. Copy its files "
                    "again."
                )
            wrong = (labels < 0) | (labels >= len(classes))
            if wrong.any():
                position = int(wrong.argmax())
                raise DataError(
                    f"{name}: image {position} has label {labels[position]}, but the set has "
                    f"{counted(len(classes), 'class')}, numbered from 0. Copy its files again."
                )
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def key(self, position: int) -> str:
        return str(position)

    def label(self, position: int) -> int | None:
        return None if self._labels is None else int(self._labels[position])

    def read(self, position: int) -> Pixels:
        return np.ascontiguousarray(self._images[position])
