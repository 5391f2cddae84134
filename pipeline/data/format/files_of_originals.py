"""Access to a set of originals: its indexes in a directory, and tar files that lie anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline.data.format.manifest import COPY
from pipeline.data.format.remote import RemoteFile, RemoteFiles
from pipeline.data.format.shard_files import LocalFiles
from pipeline.errors import DataError
from pipeline.option_data import RemoteOptions
from pipeline.regular_files import open_regular


class FilesOfOriginals:
    """`ShardFiles` of a set of originals. `places` are its tar files at URLs; all others have absolute paths."""

    def __init__(self, directory: Path, places: Mapping[str, RemoteFile], options: RemoteOptions) -> None:
        """Raises DataError or ConfigError as `RemoteFiles` does."""
        self._indexes = LocalFiles(directory)
        self._remote = RemoteFiles(places, options) if places else None
        self._places = places

    def open(self, name: str) -> IO[bytes]:
        """Open an index or a tar file, which is downloaded if it is not on a disk of this machine."""
        if self._remote is not None and name in self._places:
            return self._remote.open(name)
        if not Path(name).is_absolute():
            return self._indexes.open(name)
        try:
            return open_regular(Path(name))
        except OSError as error:
            raise DataError(f"{name} cannot be opened: {error.strerror}. {COPY}") from None

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Download those of these files that are at URLs ahead."""
        if self._remote is not None:
            self._remote.expect(*([name for name in names if name in self._places] for names in (now, later)))

    def renew(self, names: Sequence[str]) -> bool:
        """Remove those of these files that are copies and have changed. Returns whether there were any."""
        return self._remote is not None and self._remote.renew([n for n in names if n in self._places])

    def where(self, name: str) -> str:
        """The file's path or URL."""
        return name if name in self._places or Path(name).is_absolute() else self._indexes.where(name)

    def close(self) -> None:
        """Stop all downloads."""
        if self._remote is not None:
            self._remote.close()
