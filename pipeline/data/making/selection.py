"""Which images of a source are written to shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import Source, stable_hash
from pipeline.errors import ConfigError, DataError
from pipeline.wording import counted


@dataclass(frozen=True)
class Selection:
    """Which images to take; all of them by default.

    `classes` are the names of the classes to keep, in the order of their new labels. `validation` is the share of
    images, from 0 to below 1, to set apart by a hash of their keys: always the same images, on any machine and also
    after images are added. They are left out, or with `only_validation` they are the only ones taken. `limit` is the
    maximum number of images, spread over the whole set. Raises ConfigError for values out of range.
    """

    classes: tuple[str, ...] | None = None
    validation: float = 0.0
    only_validation: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ConfigError(
                f"--validation {self.validation} is out of range: give a share from 0 to below 1."
            )
        if self.only_validation and self.validation == 0:
            raise ConfigError(
                "--only-validation needs --validation with a share above 0, for example --validation 0.1."
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit} leaves no images. Give 1 or more.")


@dataclass(frozen=True)
class Chosen:
    """The chosen images: `positions` and `labels` are int64 (count,), in the source's order; no label is -1."""

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def choose(source: Source, selection: Selection) -> Chosen:
    """Apply a selection to a source.

    Raises ConfigError for unknown classes, and DataError for invalid labels or if no image is left.
    """
    if len(source) == 0:
        raise DataError(
            f"The source {source.name} has no images, so there is nothing to write. Give another source."
        )
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
        # The top 53 bits as a fraction of 1.
        is_validation = hashes >> np.uint64(11) < np.uint64(round(selection.validation * 2**53))
        taken &= is_validation if selection.only_validation else ~is_validation
    positions = np.flatnonzero(taken)
    if selection.limit is not None:
        # Also chosen by hash, so that a set that is sorted by class keeps images of all classes.
        rank = np.argsort(_rehashed(hashes[positions]), kind="stable")
        positions = np.sort(positions[rank[: selection.limit]])
    if len(positions) == 0:
        raise DataError(
            f"The selection leaves no images: {source.name} has {counted(len(source), 'image')}, and none of them "
            "matches. Change --classes or --validation."
        )
    return Chosen(positions, labels[positions], classes)


def _rehashed(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """New hashes, independent of these: those with the smallest of these may already be in the validation share."""
    return hashes * np.uint64(0x9E3779B97F4A7C15)


def _labels(source: Source) -> npt.NDArray[np.int64]:
    """The labels, int64 (count,). Every label is checked here, before any image is read."""
    if not source.classes:
        return np.full(len(source), -1, dtype=np.int64)
    labels = np.empty(len(source), dtype=np.int64)
    for position in range(len(source)):
        label = source.label(position)
        if label is None or not 0 <= label < len(source.classes):
            raise DataError(
                f"{source.name}: {source.key(position)} has label {label}, but the source has "
                f"{counted(len(source.classes), 'class')}, numbered from 0. Correct the label."
            )
        labels[position] = label
    return labels


def _check_classes(names: tuple[str, ...], source: Source) -> None:
    known = ", ".join(source.classes) or "none, because its images have no labels"
    unknown = [name for name in names if name not in source.classes]
    if unknown or not names:
        raise ConfigError(
            f"--classes: {source.name} has no class {', '.join(unknown) or 'without a name'}. Its classes: {known}."
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"--classes names a class twice: {', '.join(names)}. Name each class once.")
