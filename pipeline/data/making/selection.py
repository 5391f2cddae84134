"""Which of a source's images become shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import Source, stable_hash
from pipeline.errors import ConfigError, DataError


@dataclass(frozen=True)
class Selection:
    """What to take: all images, unless told otherwise.

    `classes` names the classes to keep, in the order of their new labels. `validation` sets apart that
    share of the images by a hash of their keys: the same images at any time and place, also when others
    come to the set. They are left out, or are what is taken where `only_validation` is set. `limit` takes
    at most so many, spread over the whole set.
    """

    classes: tuple[str, ...] | None = None
    validation: float = 0.0
    only_validation: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ConfigError(f"--validation {self.validation} is no share: give one from 0 to below 1.")
        if self.only_validation and self.validation == 0:
            raise ConfigError("--only-validation needs a share above 0: give --validation 0.1, say.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit} leaves no images. Give 1 or more.")


@dataclass(frozen=True)
class Chosen:
    """`positions` and `labels`: int64 (count,), in the source's order; the label is -1 without classes."""

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def choose(source: Source, selection: Selection) -> Chosen:
    """Apply a selection.

    Raises ConfigError for unknown classes, DataError for wrong labels or where nothing is left.
    """
    if len(source) == 0:
        raise DataError(f"The source {source.name} has no images, so there is nothing to write.")
    labels = _labels(source)
    classes = source.classes
    taken = np.ones(len(source), dtype=bool)
    if selection.classes is not None:
        _check_classes(selection.classes, source)
        classes = selection.classes
        new_label = np.full(len(source.classes), -1, dtype=np.int64)
        new_label[[source.classes.index(name) for name in classes]] = np.arange(len(classes))
        labels = new_label[labels]
        taken = labels >= 0
    if selection.validation > 0 or selection.limit is not None:
        hashes = np.array(
            [stable_hash(source.key(position)) for position in range(len(source))], dtype=np.uint64
        )
        # The top 53 bits as a fraction.
        is_validation = hashes >> np.uint64(11) < np.uint64(round(selection.validation * 2**53))
        taken &= is_validation if selection.only_validation else ~is_validation
    positions = np.flatnonzero(taken)
    if selection.limit is not None:
        # Of the rest by hash as well, so that a set sorted by class keeps all of them.
        rank = np.argsort(_rehashed(hashes[positions]), kind="stable")
        positions = np.sort(positions[rank[: selection.limit]])
    if len(positions) == 0:
        raise DataError(
            f"The selection leaves none of the {len(source):,} images of {source.name}. Widen it."
        )
    return Chosen(positions, labels[positions], classes)


def _rehashed(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hashes that do not follow these: the validation share has taken the smallest of these already."""
    return hashes * np.uint64(0x9E3779B97F4A7C15)


def _labels(source: Source) -> npt.NDArray[np.int64]:
    """int64 (count,). Every label is checked here, before any image is read."""
    if not source.classes:
        return np.full(len(source), -1, dtype=np.int64)
    labels = np.empty(len(source), dtype=np.int64)
    for position in range(len(source)):
        label = source.label(position)
        if label is None or not 0 <= label < len(source.classes):
            raise DataError(
                f"{source.name}: {source.key(position)} has label {label}, outside its {len(source.classes)} classes."
            )
        labels[position] = label
    return labels


def _check_classes(names: tuple[str, ...], source: Source) -> None:
    known = ", ".join(source.classes) or "none: its images have no labels"
    unknown = [name for name in names if name not in source.classes]
    if unknown or not names:
        raise ConfigError(
            f"{', '.join(unknown) or 'No class'} is not among the classes of {source.name}: {known}."
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"--classes names a class twice: {', '.join(names)}. Name each once.")
