"""A folder of image files: one sub-folder a class, or all in one place and without labels.

    faces/0001.jpg                     flat: no labels
    animals/cat/one/a.png              the label is the folder directly below the top, whatever lies deeper
    animals/train/cat/a.png            where the top holds one folder only, and that but folders, the classes
                                       are where the folders first branch

Hidden files and folders are passed over; so are files with other extensions, which a warning counts.
Links to folders are followed only directly below the top, so that a circle of links cannot trap the walk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec
from pipeline.data.sources.listing import Entry, Listed, is_hidden, sort_into_classes, too_large
from pipeline.errors import DataError


class Folder(Listed):
    """Files are opened when they are read. `files` holds (path within the folder, label)."""

    def __init__(self, path: Path, classes: tuple[str, ...], files: Sequence[Entry]) -> None:
        # Not the whole path: shards of a folder that has moved are still the same shards.
        super().__init__(path.resolve().name or "folder", classes, files)
        self.path = path

    def read(self, position: int) -> bytes:
        return read_image_file(f"{self.path}/{self.key(position)}")


def read_image_file(file: Path | str) -> bytes:
    """The file's content. Raises DataError where it cannot be read or is larger than any image may be."""
    try:
        # A pipe would otherwise wait for someone to write to it. The calls of the system itself, for small
        # images are read in no more time than Python's files take to be opened.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file} is no plain file. Remove it.")
            if status.st_size > MAX_FILE_BYTES:
                raise too_large(file)
            content = os.read(descriptor, status.st_size)
            # Remote file systems may give less than was asked for.
            while len(content) < status.st_size and (
                rest := os.read(descriptor, status.st_size - len(content))
            ):
                content += rest
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    if len(content) != status.st_size:
        raise DataError(f"{file} was cut short while it was read. Copy it again.")
    return content


def open_source(spec: Spec) -> Source:
    """List the images below the path `spec.name`.

    Raises DataError where there are none, where a class folder has none, or where images lie both in
    class folders and beside them; ConfigError for a root or a split.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give the folder of the {spec.split} images itself.")
    path = Path(spec.name)
    try:
        files, folders = _walk(path)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    return Folder(path, *sort_into_classes(path, files, folders))


def _walk(path: Path) -> tuple[list[str], list[str]]:
    """The files and folders below, as paths within `path`."""
    files: list[str] = []
    folders: list[str] = []
    for entry in sorted(path.iterdir()):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            folders.append(entry.name)
            _walk_below(entry, files, folders)
        elif entry.is_file():
            files.append(entry.name)
    return files, folders


def _walk_below(top: Path, files: list[str], folders: list[str]) -> None:
    for directory, children, names in os.walk(top, onerror=_raise):
        children[:] = sorted(child for child in children if not is_hidden(child))
        within = Path(directory).relative_to(top.parent).as_posix()
        folders += [f"{within}/{child}" for child in children]
        files += [f"{within}/{name}" for name in sorted(names) if not is_hidden(name)]


def _raise(error: OSError) -> None:
    raise error
