"""Webdataset shards of any program: a folder of .tar files, or a single one.

    photos/000000.tar:  0001.jpg 0001.cls 0002.jpg 0002.cls ...
    photos/classes.txt  the class names by label, one per line; optional

A sample is KEY.(png, jpg, webp, ...), and KEY.cls holds its label in decimal digits; a key ends at the first dot
after the last slash. KEY.npy holds pixels, as in this program's own raw shards, whose manifest has the class names.
All other members (.json, .txt, .pkl, ...) are skipped and never opened, because loading some of them could run code.
Samples keep their order, because shards are normally shuffled when they are made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.format.manifest import FILE_NAME as MANIFEST
from pipeline.data.format.tar_index import split_name
from pipeline.data.sources import Picture, Pixels, Source, Spec
from pipeline.data.sources.listing import is_hidden, too_large, warn_of_others
from pipeline.data.sources.members import Members
from pipeline.data.sources.npy import read_npy_header, to_array
from pipeline.data.sources.pictures import EXTENSIONS
from pipeline.data.sources.tar_files import list_tar, read_tar_member
from pipeline.errors import DataError
from pipeline.wording import counted

IMAGES = frozenset((*(extension[1:] for extension in EXTENSIONS), "npy"))
KINDS = f"{', '.join(EXTENSIONS)}, .npy and .cls"
LABEL_DIGITS = 9
MOST_CLASSES = 1_000_000
CLASS_NAMES = "classes.txt"


class Sample(NamedTuple):
    key: str
    size: int
    offset: int
    is_pixels: bool
    label: int  # -1 if there is none


class WebdatasetShards:
    """The samples of several tar files. `shards` are the files with their samples."""

    def __init__(
        self,
        name: str,
        shards: Sequence[tuple[Path, Sequence[Sample]]],
        classes: tuple[str, ...],
        native_resolution: tuple[int, int] | None = None,
        native_channels: int = 3,
    ) -> None:
        self.name, self.classes = name, classes
        self.native_resolution, self.native_channels = native_resolution, native_channels
        self._paths = [path for path, _ in shards]
        self._keys = [sample.key for _, samples in shards for sample in samples]
        # An array needs much less memory than tuples.
        self._rows = np.array([sample[1:] for _, samples in shards for sample in samples], dtype=np.int64)
        self._ends = np.cumsum([len(samples) for _, samples in shards])

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, position: int) -> str:
        return f"{self._path(position).name}/{self._keys[position]}"

    def label(self, position: int) -> int | None:
        label = int(self._rows[position, 3])
        return None if label < 0 else label

    def read(self, position: int) -> Picture:
        path, key = self._path(position), self._keys[position]
        size, offset, is_pixels, _ = self._rows[position].tolist()
        content = read_tar_member(path, key, (size, offset))
        return _read_pixels(path, key, content) if is_pixels else content

    def _path(self, position: int) -> Path:
        return self._paths[int(np.searchsorted(self._ends, position, side="right"))]


def _read_pixels(path: Path, key: str, content: bytes) -> Pixels:
    stream = io.BytesIO(content)
    try:
        header = read_npy_header(stream)
        array = to_array(header, content[header.start :])
    except ValueError as error:
        raise DataError(
            f"{path}: {key}.npy cannot be read: {error}. Write it again with numpy.save."
        ) from None
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (1,), (3,)) or array.ndim < 2 or not array.size:
        raise DataError(
            f"{path}: {key}.npy holds {header}, but an image must be uint8 (height, width), or (height, width, 1 or "
            "3). Convert it."
        )
    return array[:, :, 0] if array.shape[2:] == (1,) else array


def open_source(spec: Spec) -> Source:
    """List the samples of all .tar files in the folder `spec.name`.

    Raises DataError for tar files that `archive` would refuse, if there are no images, and for labels that are not
    whole numbers, that only some images have, or that have no class name; ConfigError if a root or a split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give a folder that holds only the {spec.split} shards.")
    path = Path(spec.name)
    return open_shards(path, [list_tar(tar) for tar in tar_files(path)])


def tar_files(folder: Path) -> list[Path]:
    """The visible .tar files of a folder, sorted by name."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(".tar") and not is_hidden(file.name) and file.is_file()
    )


def has_labels(members: Members) -> bool:
    """Whether a tar file holds labels (KEY.cls), so that it is a webdataset shard."""
    return any(split_name(name)[1] == "cls" for name in members.files)


def open_shards(path: Path, shards: Sequence[Members]) -> WebdatasetShards:
    """The source at `path`, a tar file or a folder of tar files, whose members are `shards`."""
    found = [(members.path, _samples(members)) for members in shards]
    samples = [sample for _, samples in found for sample in samples]
    others = [name for members in shards for name in members.files if not _is_read(name)]
    warn_of_others(path, others, KINDS)
    if not samples:
        raise DataError(
            f"{path} holds no images: no members that end in {', '.join(EXTENSIONS)} or .npy. Give tar files that do."
        )
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    _check_labelled(path, samples, labels)
    folder = path if path.is_dir() else path.parent
    manifest = _read_manifest(folder) if path.is_dir() else {}
    classes = _class_names(folder, manifest, int(labels.max()))
    return WebdatasetShards(path.resolve().name, found, classes, *_native(manifest))


def _is_read(name: str) -> bool:
    extension = split_name(name)[1]
    return extension in IMAGES or extension == "cls"


def _samples(members: Members) -> list[Sample]:
    images: dict[str, tuple[int, int, bool]] = {}
    labels: dict[str, int] = {}
    for name, (size, offset) in members.files.items():
        key, extension = split_name(name)
        if extension == "cls":
            labels[key] = _read_label(members, name, size, offset)
        elif extension in IMAGES:
            if key in images:
                raise DataError(
                    f"{members.path} holds two images with the key {key!r}, one of them .{extension}, so it is "
                    "unclear which is meant. Pack only one image per key."
                )
            if size > MAX_FILE_BYTES:
                raise too_large(members.path / name)
            images[key] = (size, offset, extension == "npy")
    for key in labels.keys() - images.keys():
        raise DataError(
            f"{members.path} holds a label but no image for the key {key!r}. Add the image, or remove the label."
        )
    return [Sample(key, *image, labels.get(key, -1)) for key, image in images.items()]


def _read_label(members: Members, name: str, size: int, offset: int) -> int:
    text = read_tar_member(members.path, name, (min(size, LABEL_DIGITS + 2), offset)).strip()
    if size > LABEL_DIGITS + 2 or not text.isdigit() or len(text) > LABEL_DIGITS:
        raise DataError(
            f"{members.path}: {name} holds {text!r}, but a label must be a whole number of at most {LABEL_DIGITS} "
            "digits. Write the number of the class there, and its name in classes.txt."
        )
    return int(text)


def _check_labelled(path: Path, samples: Sequence[Sample], labels: npt.NDArray[np.int64]) -> None:
    without = int((labels < 0).sum())
    if 0 < without < len(labels):
        first = samples[int((labels < 0).argmax())].key
        raise DataError(
            f"{path}: {without:,} of {counted(len(labels), 'image')} {'has' if without == 1 else 'have'} no .cls, "
            f"for example {first!r}. Either all images or none must have labels: add the missing ones, or remove "
            "these images."
        )


def _class_names(folder: Path, manifest: dict[str, Any], highest: int) -> tuple[str, ...]:
    """The class names by label: from the manifest, from classes.txt, or else the numbers."""
    if highest < 0:
        return ()
    if manifest.get("classes"):
        origin, names = folder / MANIFEST, tuple(str(name) for name in manifest["classes"])
    elif (folder / CLASS_NAMES).is_file():
        origin, names = folder / CLASS_NAMES, _read_class_names(folder / CLASS_NAMES)
    elif highest >= MOST_CLASSES:
        raise DataError(
            f"{folder}: with the label {highest} there would be more than {MOST_CLASSES:,} classes. Number the "
            "classes from 0."
        )
    else:
        return tuple(str(label) for label in range(highest + 1))
    if highest >= len(names):
        raise DataError(
            f"{origin} names {counted(len(names), 'class')}, but there is a label {highest}. Add the missing names."
        )
    return names


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Write one class name per line, in UTF-8.") from None


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The fields of this program's manifest; empty if there is none, or one of another program."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}. Copy it again, or remove it.") from None
    match content:
        case {"format": str(found), "classes": list()} if found.startswith("wgan-shards/"):
            return dict(content)
    return {}


def _native(manifest: dict[str, Any]) -> tuple[tuple[int, int] | None, int]:
    """The resolution and the channels of this program's own shards; for others (None, 3)."""
    match manifest:
        case {"resolution": [int(height), int(width)], "channels": 1 | 3 as channels}:
            return (height, width), channels
    return None, 3
