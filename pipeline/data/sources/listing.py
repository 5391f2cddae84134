"""The one listing of a source's content: its images in order, their labels, and what is left out.

`wgan shards make`, `index` and `check` all work from it, for folders, zip files and tar files alike. Labels come from

    KEY.cls                    the number of the class, next to KEY.jpg
    dataset.json               as StyleGAN's tools write it; its folders are no classes
    cat/0001.jpg               otherwise, from the folders

or from where --labels says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.format.pictures import EXTENSIONS
from pipeline.data.sources import Picture, Remarks, mixed
from pipeline.data.sources.leftovers import count_kinds, describe_left_out, describe_unused_labels, some
from pipeline.data.sources.members import WHERE_COLUMNS, Container, Members
from pipeline.data.sources.npy import read_pixels
from pipeline.data.sources.sample_labels import FoundLabels, find_labels
from pipeline.data.sources.samples import Asked, Samples, sort_samples
from pipeline.errors import DataError
from pipeline.wording import counted

ARCHIVES = (".tar", ".zip", ".gz", ".bz2", ".xz", ".zst", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
CONTAINER, LABEL, WHERE = 0, 1, 2
"""The columns of a listing's rows; the last one is the first of several."""


@dataclass(frozen=True)
class Listing:
    """Images of one or several containers, in order.

    `names` are the names of their files and `keys` their unique keys; `rows`, int64 (count, 7), has for each the number
    of its container, its label (-1 if there are none), and its place there.
    """

    containers: tuple[Container, ...]
    names: list[str]
    keys: list[str]
    rows: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    are_labels_in_files: bool
    """Whether each image has its own label file"""
    remarks: Remarks


class ListedImages:
    """The source of the images of a listing."""

    def __init__(
        self,
        name: str,
        listing: Listing,
        native_resolution: tuple[int, int] | None = None,
        native_channels: int = 3,
    ) -> None:
        self.name, self.classes, self.remarks = name, listing.classes, listing.remarks
        self.native_resolution, self.native_channels = native_resolution, native_channels
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing.keys)

    def key(self, position: int) -> str:
        return self._listing.keys[position]

    def file_name(self, position: int) -> str:
        """The name of the image's file, with the name of its shard if there are several."""
        container, name = self._container(position), self._listing.names[position]
        return name if len(self._listing.containers) == 1 else f"{container.path.name}/{name}"

    def label(self, position: int) -> int | None:
        label = int(self._listing.rows[position, LABEL])
        return None if label < 0 else label

    def read(self, position: int) -> Picture:
        container, name = self._container(position), self._listing.names[position]
        content = container.read(container, name, tuple(self._listing.rows[position, WHERE:].tolist()))
        if container.kind == "tar" and name.lower().endswith(".npy"):
            return read_pixels(f"{container.path}: {name}", content)
        return content

    def _container(self, position: int) -> Container:
        return self._listing.containers[int(self._listing.rows[position, CONTAINER])]


def list_images(
    place: Path, containers: Sequence[Members], asked: Asked, left_out: Sequence[str] = ()
) -> Listing:
    """List the images in containers, which all belong to the source at `place`: a folder, an archive, or several.

    `left_out` is what else `place` holds. Raises DataError if there are no images, and if it is unclear which files are
    images or which labels they have.
    """
    samples = [sort_samples(members, asked) for members in containers]
    names = [name for part in samples for name in part.names]
    if not names:
        raise DataError(_no_images(place, samples, asked.ending))
    labels = find_labels(place, samples, asked)
    keys, is_shuffled = _keys(place, samples, labels), _is_shuffled(place, samples, labels)
    order = list(range(len(keys)))
    if not is_shuffled:
        order = [number for _, number in mixed(zip(keys, order, strict=True))]
    others = [name for part in samples for name in part.others if name not in labels.used]
    unread = describe_left_out([part.members for part in samples], others, "with another ending")
    return Listing(
        tuple(part.members.container for part in samples),
        [names[number] for number in order],
        [keys[number] for number in order],
        _rows(samples, labels)[order],
        labels.classes,
        labels.are_in_files,
        Remarks(
            labels.origin,
            (*left_out, *unread),
            (*labels.unused, *describe_unused_labels(samples, asked.labels, bool(labels.classes))),
        ),
    )


def _are_shards(place: Path, samples: Sequence[Samples], labels: FoundLabels) -> bool:
    """Whether these are webdataset shards: a folder of tar files, or one tar file with label files."""
    return samples[0].members.container.kind == "tar" and (place.is_dir() or labels.are_in_files)


def _is_shuffled(place: Path, samples: Sequence[Samples], labels: FoundLabels) -> bool:
    """Whether the order of the files is kept: shards are shuffled when they are made, unless they hold folders."""
    return _are_shards(place, samples, labels) and (labels.are_in_files or not labels.classes)


def _keys(place: Path, samples: Sequence[Samples], labels: FoundLabels) -> list[str]:
    if not _are_shards(place, samples, labels):
        return [name for part in samples for name in part.names]
    return [f"{part.members.path.name}/{key}" for part in samples for key in part.keys]


def _rows(samples: Sequence[Samples], labels: FoundLabels) -> npt.NDArray[np.int64]:
    """Arrays, because they need much less memory than tuples."""
    rows = np.zeros((len(labels.labels), WHERE + WHERE_COLUMNS), dtype=np.int64)
    rows[:, LABEL] = labels.labels
    start = 0
    for number, part in enumerate(samples):
        wheres = np.array([part.members.files[name] for name in part.names], dtype=np.int64)
        places = rows[start : start + len(part.names)]
        places[:, CONTAINER] = number
        if wheres.size:
            places[:, WHERE : WHERE + wheres.shape[1]] = wheres
        start += len(part.names)
    return rows


def _no_images(place: Path, samples: Sequence[Samples], ending: str | None) -> str:
    others = [name for part in samples for name in part.others]
    if ending is not None:
        return f"{place} holds no images that end in {ending}. Correct --images."
    looked_for = f"{place} holds no images: no files that end in {', '.join(EXTENSIONS)}."
    if archives := sorted(name for name in others if name.lower().endswith(ARCHIVES)):
        what = f"{counted(len(archives), 'archive')} ({some(archives)})"
        return f"{looked_for} It holds {what}. Give a folder of tar files, or one archive."
    found = f" It holds {count_kinds(others)}." if others else ""
    return f"{looked_for}{found} Give a folder or an archive that does."
