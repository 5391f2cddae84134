"""A folder of image files: one subfolder per class, or all files in one place and without labels.

    faces/0001.jpg                     all images in one folder: no labels
    animals/cat/one/a.png              the class is the first subfolder; folders inside it do not matter
    animals/train/cat/a.png            if there is only one subfolder and it holds only folders, the classes are
                                       the first level with several folders

Hidden files and folders are skipped. Files with other endings are skipped with a warning that counts them.
Links to folders are followed only directly below the top, so that circular links cannot cause an endless search.
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
    """The images of a folder, opened one by one. `files` are (path within the folder, label)."""

    def __init__(self, path: Path, classes: tuple[str, ...], files: Sequence[Entry]) -> None:
        # Only the name, not the path: shards stay the same if the folder is moved.
        super().__init__(path.resolve().name or "folder", classes, files)
        self.path = path

    def read(self, position: int) -> bytes:
        return read_image_file(f"{self.path}/{self.key(position)}")


def read_image_file(file: Path | str) -> bytes:
    """The content of a file. Raises DataError if it cannot be read or is too large for an image."""
    try:
        # O_NONBLOCK, because opening a named pipe would otherwise wait for a writer. Direct system calls, because
        # Python's file objects take longer to open than a small image takes to read.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file} is not a regular file. Remove it.")
            if status.st_size > MAX_FILE_BYTES:
                raise too_large(file)
            content = os.read(descriptor, status.st_size)
            # Network file systems may return less than requested.
            while len(content) < status.st_size and (
                rest := os.read(descriptor, status.st_size - len(content))
            ):
                content += rest
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from None
    if len(content) != status.st_size:
        raise DataError(f"{file} became shorter while it was read. Copy it again.")
    return content


def open_source(spec: Spec) -> Source:
    """List the images in the folder `spec.name`.

    Raises DataError if there are none, if a class folder has none, or if there are images both in class folders and
    next to them; ConfigError if a root or a split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give the folder that holds only the {spec.split} images.")
    path = Path(spec.name)
    try:
        files, folders = _walk(path)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}. Check its permissions."
        ) from None
    return Folder(path, *sort_into_classes(path, files, folders))


def _walk(path: Path) -> tuple[list[str], list[str]]:
    """All visible files and folders in `path`, as paths relative to it."""
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
