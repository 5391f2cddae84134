"""The members of an archive, and the members that are refused in any archive.

The names are used as keys and class names, but never as paths of files: nothing is unpacked.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pipeline.data.sources.listing import is_hidden
from pipeline.errors import DataError

DRIVE = re.compile(r"[A-Za-z]:")

Where = tuple[int, ...]
"""The size of a member in bytes, followed by what this kind of archive needs to find it."""


class Members:
    """The visible plain files of an archive with their places, and its folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Where] = {}
        self.folders: set[str] = set()
        self._seen: set[str] = set()

    def add_file(self, name: str, where: Where) -> None:
        """Raises DataError for a name that leads out of the archive or that another member already has."""
        plain = self._plain(name)
        if plain in self._seen:
            raise self.refusal(name, "appears twice", "It is unclear which one is meant.")
        self._seen.add(plain)
        if not is_hidden(plain):
            self.files[plain] = where

    def add_folder(self, name: str) -> None:
        """Raises DataError for a name that leads out of the archive."""
        plain = self._plain(name)
        if plain and not is_hidden(plain):
            self.folders.add(plain)

    def refusal(self, name: str, what: str, why: str) -> DataError:
        """The error that refuses the archive because of this member."""
        return DataError(
            f"{self.path}: the member {name!r} {what}. {why} Pack only plain image files, each with a different name."
        )

    def _plain(self, name: str) -> str:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or DRIVE.match(name):
            raise self.refusal(
                name, "has an absolute name or one that leads out of the archive", "This could be an attack."
            )
        plain = str(PurePosixPath(name))
        return "" if plain == "." else plain
