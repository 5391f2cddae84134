"""Which column of a Hugging Face dataset holds the labels of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.data.sources import NOTHING_TO_SAY, Remarks, Spec
from pipeline.data.sources.label_tables import values_to_labels
from pipeline.data.sources.labels import Labels, to_classes
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable
from pipeline.wording import counted

LABEL_NAMES = ("label", "labels", "class", "target", "targets", "category", "y")
MOST_NAMED = 8


@dataclass(frozen=True)
class FoundLabels:
    """The labels by row, None if there are none, and their classes."""

    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    remarks: Remarks = NOTHING_TO_SAY


NO_LABELS = FoundLabels()


def find_column_labels(spec: Spec, dataset: Any, image: str) -> FoundLabels:
    """The labels in a column of the dataset, whose images are in the column `image`.

    Raises ConfigError if the chosen column does not exist, and DataError if its labels cannot be used or if it is
    unclear which column is meant.
    """
    column = _choose_column(spec, dataset, image)
    found = NO_LABELS if column is None else _read_column(spec, dataset, column)
    others = [name for name in dataset.column_names if name not in (image, column)]
    if not others:
        return found
    shown = printable(", ".join(others[:MOST_NAMED])) + (", ..." if len(others) > MOST_NAMED else "")
    hint = (
        ""
        if found.classes or spec.labels.kind != "auto"
        else ", of which --labels column:NAME uses one as labels"
    )
    left_out = f"{counted(len(others), 'column')} ({shown}){hint}"
    return replace(found, remarks=replace(found.remarks, left_out=(left_out,)))


def _choose_column(spec: Spec, dataset: Any, image: str) -> str | None:
    import datasets

    if spec.labels.kind == "column":
        if spec.labels.name not in dataset.column_names or spec.labels.name == image:
            raise ConfigError(
                f"--labels {spec.labels}: {spec.name} has no such column of labels. Its columns: "
                f"{printable(', '.join(dataset.column_names))}."
            )
        return spec.labels.name
    if spec.labels.kind != "auto":
        return None
    kinds = dataset.features
    classes = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if len(classes) > 1:
        shown = ", ".join(f"{name} of {counted(len(kinds[name].names), 'class')}" for name in classes)
        raise DataError(
            f"{spec.name} has {len(classes)} columns of labels: {printable(shown)}. Choose one, for example --labels "
            f"column:{classes[0]}, or give --labels none."
        )
    named = [name for name in LABEL_NAMES if name in kinds and name != image]
    return next(iter(classes or named), None)


def _read_column(spec: Spec, dataset: Any, column: str) -> FoundLabels:
    import datasets

    table = dataset.select_columns([column]).with_format("arrow")[:][column]
    kind = dataset.features[column]
    if isinstance(kind, datasets.ClassLabel):
        return _read_classes(spec, table.to_numpy(), column, tuple(kind.names))
    values: Sequence[Any] = table.to_pylist()
    if values and all(value == -1 for value in values):
        return NO_LABELS  # on the Hub this means that the labels of a test split are secret
    try:
        labels, classes = to_classes(spec.name, values_to_labels(values))
    except ValueError as error:
        if spec.labels.kind == "column":
            raise DataError(
                f"{spec.name}: the column {printable(column)}: {error}. Choose another one."
            ) from None
        return FoundLabels(remarks=Remarks(unused_labels=(f"the column {printable(column)} ({error})",)))
    return FoundLabels(labels, classes, Remarks(f"the column {printable(column)}"))


def _read_classes(spec: Spec, labels: Any, column: str, classes: tuple[str, ...]) -> FoundLabels:
    if (labels == -1).all():
        return NO_LABELS
    wrong = ~((labels >= 0) & (labels < len(classes)))  # also true of a missing label, which is NaN
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{spec.name}: row {row} has label {labels[row]}, but the dataset has {counted(len(classes), 'class')}, "
            f"numbered from 0. Remove such rows, or the column {column}, or give --labels none."
        )
    return FoundLabels(
        np.asarray(labels, dtype=np.int64), classes, Remarks(f"the column {printable(column)}")
    )
