"""Access to the files of a shard set, in a directory or at a URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from pipeline.data.format.manifest import COPY
from pipeline.errors import DataError
from pipeline.regular_files import open_regular


class ShardFiles(Protocol):
    """Opens the tar files and indexes of a shard set by the names that its manifest gives them."""

    def open(self, name: str) -> IO[bytes]:
        """Open the file for reading: complete, on a local disk, and readable until it is closed.

        Waits if it must be downloaded first. Raises DataError if it cannot be opened. Any thread may call it.
        """

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Announce which files are being read and which come next, so that they can be downloaded ahead."""

    def renew(self, names: Sequence[str]) -> bool:
        """Remove those of these files that are copies and have changed. Returns whether opening them again may help."""

    def where(self, name: str) -> str:
        """The file's path or URL, to be used in messages."""

    def close(self) -> None:
        """Stop all downloads."""


class LocalFiles:
    """The files of a set in a local directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, name: str) -> IO[bytes]:
        try:
            return open_regular(self.directory / name, self.directory)
        except OSError as error:
            raise DataError(f"{self.where(name)} cannot be opened: {error.strerror}. {COPY}") from None

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Nothing to do: the files are there."""

    def renew(self, names: Sequence[str]) -> bool:
        """They are no copies."""
        return False

    def where(self, name: str) -> str:
        return str(self.directory / name)

    def close(self) -> None:
        """Nothing to do."""
