"""The labels of a source's images: from the files next to them, from dataset.json, or from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.sources.class_folders import find_class_folders
from pipeline.data.sources.class_names import FILE_NAME as CLASS_NAMES
from pipeline.data.sources.class_names import LARGEST_FILE, name_classes, parse_class_names, read_class_names
from pipeline.data.sources.label_tables import (
    find_values,
    parse_dataset_json,
    values_to_labels,
)
from pipeline.data.sources.labels import Label, LabelChoice, Labels, to_classes, whole_numbers
from pipeline.data.sources.samples import Asked, Samples
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.regular_files import is_absent
from pipeline.wording import counted

DATASET_JSON = "dataset.json"
LABEL_BYTES = 1024  # of one image in dataset.json: its name and 25 numbers take 600
MOST_NAMED = 4


@dataclass(frozen=True)
class FoundLabels:
    """The labels of all images, in the order of the samples; `origin` says where they come from."""

    labels: Labels
    classes: tuple[str, ...] = ()
    origin: str = ""
    are_numbers: bool = False
    """Whether the classes are numbers, which may get names"""
    are_in_files: bool = False
    """Whether each image has a label file, as in webdataset shards, which are shuffled when they are made"""
    used: frozenset[str] = frozenset()
    """The names of further files that were used"""
    unused: tuple[str, ...] = ()
    """Labels that are there and cannot be used, with the reason"""


def find_labels(place: Path, samples: Sequence[Samples], asked: Asked) -> FoundLabels:
    """The labels of the images of the source at `place`.

    Raises DataError if only some images have labels, and if the classes are unclear.
    """
    found = _find(place, samples, asked.labels)
    if not found.are_numbers or asked.is_named_later:
        return found
    numbered = replace(found, origin=_with_empty_classes(found))
    if asked.class_names:
        return replace(numbered, classes=name_classes(place, asked.class_names, found.classes))
    for part in samples:
        if CLASS_NAMES in part.others:
            path = part.members.path / CLASS_NAMES
            names = parse_class_names(path, part.members.read(CLASS_NAMES, LARGEST_FILE))
            classes = name_classes(path, names, found.classes)
            return replace(numbered, classes=classes, used=found.used | {CLASS_NAMES})
    beside = (place if place.is_dir() else place.parent) / CLASS_NAMES
    if samples[0].members.container.kind == "tar" and not is_absent(beside):
        names = read_class_names(beside, within=beside.parent)
        return replace(numbered, classes=name_classes(beside, names, found.classes))
    return numbered


def _with_empty_classes(found: FoundLabels) -> str:
    """The origin, with the number of classes that no image has."""
    empty = len(found.classes) - len(np.unique(found.labels))
    remark = f", {empty:,} of {counted(len(found.classes), 'class')} without images" if empty else ""
    return found.origin + remark


def _find(place: Path, samples: Sequence[Samples], choice: LabelChoice) -> FoundLabels:
    count = sum(len(part.names) for part in samples)
    none = FoundLabels(np.full(count, -1, dtype=np.int64))
    if choice.kind in ("none", "file"):
        return none
    if any(part.has_labels for part in samples):
        return _from_files(place, samples, str(choice.extension), choice.name)
    if choice.kind in ("cls", "txt", "json"):
        raise DataError(
            f"{place} holds no KEY.{choice.extension} next to its images, for --labels {choice}. Correct the "
            "option, or give --labels none."
        )
    if choice.kind == "auto" and (found := _from_dataset_json(samples, none)):
        return found
    return _from_folders(place, samples, none)


def _from_files(place: Path, samples: Sequence[Samples], extension: str, name: str) -> FoundLabels:
    keys = [key for part in samples for key in part.keys]
    labels = [label for part in samples for label in part.labels]
    found = [label for label in labels if label is not None]
    if missing := [key for key, label in zip(keys, labels, strict=True) if label is None]:
        raise DataError(
            f"{place}: {len(missing):,} of {counted(len(keys), 'image')} {'has' if len(missing) == 1 else 'have'} no "
            f".{extension}, for example {missing[0]!r}. Either all images or none must have labels: add the missing "
            "ones, remove these images, or give `wgan shards make` --labels none."
        )
    origin = f"KEY.{extension}" + (f": {name}" if name else "")
    return _as_classes(place, found, FoundLabels(np.empty(0, np.int64), origin=origin, are_in_files=True))


def _as_classes(place: Path, found: Sequence[Label], known: FoundLabels) -> FoundLabels:
    labels, classes = to_classes(place, found)
    are_numbers = all(isinstance(label, int) for label in whole_numbers(found))
    return replace(known, labels=labels, classes=classes, are_numbers=are_numbers)


def _from_dataset_json(samples: Sequence[Samples], none: FoundLabels) -> FoundLabels | None:
    """The labels in dataset.json, or none if it says that there are none; None if there is no such file."""
    found = [
        (part, name) for part in samples for name in part.others if name.rpartition("/")[2] == DATASET_JSON
    ]
    if len(found) != 1 or len(samples) != 1:
        return None
    part, name = found[0]
    path = part.members.path / name
    try:
        table = parse_dataset_json(part.members.read(name, LABEL_BYTES * (64 + len(part.names))))
    except ValueError as error:
        if "labels is missing" in str(error):
            return None  # another kind of file, which happens to have this name
        return replace(none, used=frozenset([name]), unused=(f"{DATASET_JSON} ({error})",))
    if table is None:
        return replace(none, used=frozenset([name]))
    top = name.removesuffix(DATASET_JSON)
    values = find_values(path, table, [image.removeprefix(top) for image in part.names])
    spare = len(table) - len(values)
    unused = (f"{counted(spare, 'label')} of {DATASET_JSON} without an image",) if spare else ()
    known = replace(none, origin=DATASET_JSON, used=frozenset([name]), unused=unused)
    try:
        return _as_classes(path, values_to_labels(values), known)
    except ValueError as error:
        return replace(known, origin="", unused=(f"{DATASET_JSON} ({error})",))


def _from_folders(place: Path, samples: Sequence[Samples], none: FoundLabels) -> FoundLabels:
    images = [name for part in samples for name in part.names]
    others = [name for part in samples for name in part.others]
    folders = [f"{name}/" for part in samples for name in part.members.folders]
    is_wrapped = samples[0].members.container.kind != "folder"
    classes, names = find_class_folders(place, images, [*others, *folders], is_wrapped)
    if not classes:
        return none
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in names], dtype=np.int64)
    shown = printable(", ".join(classes[:MOST_NAMED])) + (", ..." if len(classes) > MOST_NAMED else "")
    return replace(none, labels=labels, classes=classes, origin=f"the folders {shown}")
