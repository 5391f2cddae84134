"""Which array of an .npz file holds the labels of its images.

An array that is named like labels is meant as such, whatever its type. Of arrays with other names, only whole numbers,
one for each image, are taken as labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.data.sources.labels import LabelChoice, labels_in
from pipeline.data.sources.npy import NpyHeader
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable

LABEL_NAMES = ("labels", "label", "y", "targets", "target", "classes", "class", "arr_1")


def label_candidates(
    path: Path, headers: Mapping[str, NpyHeader], images: str, choice: LabelChoice
) -> list[str]:
    """The names of the arrays that may hold labels. Raises ConfigError if the chosen one is not there."""
    if choice.kind == "column":
        if choice.name not in headers or choice.name == images:
            raise ConfigError(
                f"--labels {choice}: {path} has no such array of labels. It holds {describe_arrays(headers)}."
            )
        return [choice.name]
    if choice.kind != "auto":
        return []
    if named := [name for name in LABEL_NAMES if name in headers and name != images]:
        return named
    count = headers[images].shape[0]
    return [
        name
        for name, header in headers.items()
        if header.shape in ((count,), (count, 1)) and header.dtype.kind in "iu"
    ]


def choose_labels(
    path: Path, arrays: Mapping[str, npt.NDArray[Any] | None], count: int, choice: LabelChoice
) -> tuple[str | None, tuple[str, ...]]:
    """The candidate that holds the labels of `count` images, if one does, and the others with the reason why not.

    An array of Python objects is None, because it is not loaded. Raises DataError if the chosen one, or one of whole
    numbers, cannot be used, and if it is unclear which is meant.
    """
    usable: list[str] = []
    unused: list[str] = []
    for name, array in arrays.items():
        reason = _defect(array, count)
        if reason is None:
            usable.append(name)
        elif choice.kind == "column" or (array is not None and array.ndim == 1 and array.dtype.kind in "iu"):
            raise DataError(
                f"{path}: {printable(name)}: {reason}. Correct the labels, or give --labels none."
            )
        else:
            unused.append(f"{printable(name)} ({reason})")
    if len(usable) > 1 and usable[0] not in LABEL_NAMES:
        raise DataError(
            f"{path} holds {len(usable)} such arrays ({printable(', '.join(usable))}), so it is unclear which "
            f"array holds the labels. Choose one, for example --labels column:{usable[0]}, or give --labels none."
        )
    return (usable[0] if usable else None), tuple(unused)


def _defect(array: npt.NDArray[Any] | None, count: int) -> str | None:
    """Why an array is not the labels of `count` images; None if it is."""
    if array is None:
        return "it holds Python objects, which are not loaded"
    if array.shape[:1] != (count,):
        return f"its shape is {array.shape}, but there are {count:,} images"
    try:
        labels_in(array)
    except ValueError as error:
        return str(error)
    return None


def describe_arrays(headers: Mapping[str, NpyHeader]) -> str:
    """The names, types and shapes of arrays."""
    return printable(", ".join(f"{name}: {header}" for name, header in headers.items())) or "no arrays"
