"""The members of an archive, and what is refused of any archive whatever it is read for.

Names serve as keys and tell classes apart. They are never made into paths of files: nothing is unpacked.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pipeline.data.sources.listing import is_hidden
from pipeline.errors import DataError

DRIVE = re.compile(r"[A-Za-z]:")

Where = tuple[int, ...]
"""The member's size in bytes, and then what its kind of archive needs to find it."""


class Members:
    """The visible plain files of an archive, each with where it lies, and the folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Where] = {}
        self.folders: set[str] = set()
        self._seen: set[str] = set()

    def add_file(self, name: str, where: Where) -> None:
        """Raises DataError for a name that leads out of the archive, or that another file has."""
        plain = self._plain(name)
        if plain in self._seen:
            raise self.refusal(name, "comes twice", "It is unclear which one is meant.")
        self._seen.add(plain)
        if not is_hidden(plain):
            self.files[plain] = where

    def add_folder(self, name: str) -> None:
        """Raises DataError for a name that leads out of the archive."""
        plain = self._plain(name)
        if plain and not is_hidden(plain):
            self.folders.add(plain)

    def refusal(self, name: str, what: str, why: str) -> DataError:
        """The refusal of the archive for this member."""
        return DataError(
            f"{self.path}: the member {name!r} {what}. {why} Pack plain image files only, each under a name "
            "of its own."
        )

    def _plain(self, name: str) -> str:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or DRIVE.match(name):
            raise self.refusal(name, "has a name that is absolute or leads elsewhere", "It could be a trap.")
        plain = str(PurePosixPath(name))
        return "" if plain == "." else plain
