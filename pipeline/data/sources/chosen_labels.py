"""Labels and class names that the user chose, for sources of every kind."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from unicodedata import normalize

import numpy as np

from pipeline.data.sources import Picture, Remarks, Source, Spec, remarks_of
from pipeline.data.sources.class_names import name_classes, read_class_names
from pipeline.data.sources.label_tables import read_labels
from pipeline.data.sources.labels import Labels, to_classes
from pipeline.errors import ConfigError, DataError
from pipeline.wording import counted

ANY_SOURCE = frozenset(("auto", "none", "file"))
MEANT_FOR = {
    "column": "a Hugging Face set or an .npz file",
    **dict.fromkeys(("folders", "cls", "txt", "json"), "folders, archives and webdataset shards"),
}


class Relabelled:
    """A source with other labels, int64 (count,), or none, and other class names."""

    def __init__(
        self, source: Source, labels: Labels | None, classes: tuple[str, ...], remarks: Remarks
    ) -> None:
        self.name, self.classes, self.remarks = source.name, classes, remarks
        self.native_resolution, self.native_channels = source.native_resolution, source.native_channels
        self._source, self._labels = source, labels

    def __len__(self) -> int:
        return len(self._source)

    def key(self, position: int) -> str:
        return self._source.key(position)

    def label(self, position: int) -> int | None:
        return None if self._labels is None else int(self._labels[position])

    def read(self, position: int) -> Picture:
        return self._source.read(position)


def refuse_other_choices(spec: Spec, known: Set[str]) -> None:
    """Raise ConfigError for --labels and --images that this source does not have; `known` are its own kinds."""
    if spec.labels.kind not in ANY_SOURCE | known:
        raise ConfigError(
            f"--labels {spec.labels} is for {MEANT_FOR[spec.labels.kind]}, and {spec.name} is none of these. Give "
            "--labels none or a file of labels (LABELS.csv), or leave it out."
        )
    if spec.ending is not None and "cls" not in known:
        raise ConfigError(
            f"--images {spec.ending} is for {MEANT_FOR['cls']}, and {spec.name} is none of these. Leave it out."
        )


def apply_labels(source: Source, spec: Spec) -> Source:
    """The source with the labels of `--labels none` or a file, and with the names of --class-names.

    Raises ConfigError or DataError if the files do not fit the images.
    """
    if spec.labels.kind == "none" and source.classes:
        source = Relabelled(source, None, (), replace(remarks_of(source), labels_from=""))
    if spec.labels.kind == "file" and len(source):
        source = _labelled_by_file(source, spec)
    if spec.class_names is not None:
        source = _with_class_names(source, spec)
    _refuse_look_alikes(spec, source.classes)
    return source


def _refuse_look_alikes(spec: Spec, classes: Sequence[str]) -> None:
    """Raise DataError for two classes whose names are shown alike: letters with accents have two forms in Unicode.

    macOS writes one form and most other systems the other, so such classes are one that was put together from both.
    """
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(normalize("NFC", name).strip(), name)
        if other != name:
            raise DataError(
                f"{spec.name} has the classes {other!a} and {name!a}, which look alike and differ only in "
                "their Unicode form or in spaces, so they are probably one class. Give them one name, or give --labels "
                "none."
            )


def _labelled_by_file(source: Source, spec: Spec) -> Source:
    assert spec.labels.path is not None
    name = getattr(source, "file_name", source.key)
    found, spare = read_labels(
        spec.labels.path, spec.labels.name, [name(position) for position in range(len(source))]
    )
    labels, classes = to_classes(spec.labels.path, found)
    remarks = replace(remarks_of(source), labels_from=str(spec.labels))
    if spare:
        unused = f"{counted(spare, 'label')} of {spec.labels.path} without an image"
        remarks = replace(remarks, unused_labels=(*remarks.unused_labels, unused))
    return Relabelled(source, labels, classes, remarks)


def _with_class_names(source: Source, spec: Spec) -> Source:
    assert spec.class_names is not None
    if not source.classes:
        raise ConfigError(
            f"--class-names {spec.class_names}: {source.name} has no labels, so there is nothing to name. Leave it out."
        )
    if source.classes != tuple(map(str, range(len(source.classes)))):
        raise ConfigError(
            f"--class-names {spec.class_names}: the classes of {source.name} have names already "
            f"({', '.join(source.classes[:4])}), and only numbered classes can be named. Leave it out."
        )
    if not spec.class_names.exists():
        raise ConfigError(f"--class-names {spec.class_names}: there is no such file. Correct its name.")
    classes = name_classes(spec.class_names, read_class_names(spec.class_names), source.classes)
    labels = [source.label(position) for position in range(len(source))]
    whole = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
    return Relabelled(source, whole, classes, remarks_of(source))
