"""The content of a folder or an archive: its plain files with their places, its folders, and what is left out.

The names of an archive are used as keys and class names, but never as paths of files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.errors import DataError

DRIVE = re.compile(r"[A-Za-z]:")
MAC_FOLDER = "__MACOSX"  # macOS adds this folder to archives

Where = tuple[int, ...]
"""What a container needs to find a file in it: for archives its size in bytes comes first; empty for a folder."""
WHERE_COLUMNS = 5
"""The most numbers that any kind of container needs."""


@dataclass(frozen=True)
class Container:
    """A folder or an archive. `data` is the file that is read: another one than `path` if that is compressed."""

    kind: Literal["folder", "zip", "tar"]
    path: Path
    data: Path
    read: Callable[[Container, str, Where], bytes]
    """(container, name, where) -> the content of a file. Raises DataError, which names it."""


class Members:
    """The visible plain files of a container with their places, and its folders."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.files: dict[str, Where] = {}
        self.folders: set[str] = set()
        self.hidden: set[str] = set()
        """Hidden files, and hidden folders, which are not looked into."""
        self.special: list[str] = []
        """What is neither a file nor a folder: its name, with what it is."""

    @property
    def path(self) -> Path:
        """The folder or the archive."""
        return self.container.path

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file. Raises DataError if it cannot be read or has more than `limit` bytes."""
        where = self.files[name]
        content = b"" if where and where[0] > limit else self.container.read(self.container, name, where)
        if (where and where[0] > limit) or len(content) > limit:
            raise DataError(
                f"{self.path / name} has more than the {limit:,} bytes that such a file can have. Remove it."
            )
        return content

    def add_file(self, name: str, where: Where) -> None:
        """Raises DataError for a name that leads out of the archive or that another member already has."""
        plain = self._plain(name)
        if not plain:
            raise self.refusal(name, "has no name", "Images are known by their names.")
        if plain in self.files:
            raise self.refusal(name, "appears twice", "It is unclear which one is meant.")
        if hidden := hidden_part(plain):
            self.hidden.add(hidden)
        else:
            self.files[plain] = where

    def add_folder(self, name: str) -> None:
        """Raises DataError for a name that leads out of the archive."""
        plain = self._plain(name)
        if hidden := hidden_part(plain):
            self.hidden.add(hidden)
        elif plain:
            self.folders.add(plain)

    def refusal(self, name: str, what: str, why: str) -> DataError:
        """The error that refuses the archive because of this member."""
        return DataError(
            f"{self.path}: the member {name!r} {what}. {why} Pack only plain image files, each with a different name."
        )

    def _plain(self, name: str) -> str:
        parts = name.split("/")
        if "\\" in name:
            why = "Some programs for Windows write them instead of a slash, so it is unclear what its folders are."
            raise self.refusal(name, "has backslashes in its name", why)
        if name.startswith("/") or ".." in parts or "\0" in name or DRIVE.match(name):
            raise self.refusal(
                name, "has an absolute name or one that leads out of the archive", "This could be an attack."
            )
        plain = str(PurePosixPath(name))
        return "" if plain == "." else plain


def is_hidden(name: str) -> bool:
    """Whether the name of a file or a folder, without a path, is hidden."""
    return name.startswith(".") or name == MAC_FOLDER


def hidden_part(name: str) -> str:
    """The start of a path within a container up to its first hidden part; empty if no part is hidden."""
    if "." not in name and MAC_FOLDER not in name:
        return ""
    parts = name.split("/")
    place = next((place for place, part in enumerate(parts, start=1) if is_hidden(part)), 0)
    return "/".join(parts[:place])


def is_hidden_member(name: str) -> bool:
    """Whether any part of the name of a member of a tar file is hidden; `.` and `..` only say where it begins."""
    return bool(hidden_part("/".join(part for part in name.split("/") if part not in (".", ".."))))


def unreadable(file: Path | str, error: OSError) -> DataError:
    """The error for a file of a set that cannot be opened; `regular_files` says what links and pipes are."""
    reason = error.strerror or str(error)
    remedy = (
        "Copy what it leads to there (cp -rL)"
        if reason.startswith("it is a link")
        else "Check its permissions"
    )
    return DataError(f"{file} cannot be read: {reason}. {remedy}, or remove it.")


def too_large(file: Path | str) -> DataError:
    """The error for a file that is larger than MAX_FILE_BYTES."""
    return DataError(
        f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB, which is too large for an image. Remove it."
    )
