"""The files of a shard set, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from pipeline.errors import DataError


class ShardFiles(Protocol):
    """Opens the tar files and indexes that a manifest lists, by their names in it."""

    def open(self, name: str) -> IO[bytes]:
        """The file, whole and on a local disk, for reading; it stays readable until it is closed.

        Waits where it must be fetched first. Raises DataError where it cannot be had. Any thread may call it.
        """

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Say which files are being read, and which come next, so that they can be fetched ahead."""

    def where(self, name: str) -> str:
        """The file's path or URL, for messages."""

    def close(self) -> None:
        """Fetch nothing more."""


class LocalFiles:
    """A directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self.directory / name).open("rb")
        except OSError as error:
            raise DataError(f"{self.where(name)} cannot be opened: {error.strerror}.") from None

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Nothing to do: the files are there."""

    def where(self, name: str) -> str:
        return str(self.directory / name)

    def close(self) -> None:
        """Nothing to do."""
