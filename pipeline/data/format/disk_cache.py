"""A bounded directory of fetched files, shared by all processes of a machine.

    SHA256               a whole file, called after its content
    SHA256.BYTES.TOKEN   one that is being written; its writer holds a lock on it, a killed one does not
    SHA256.fetch         locked by the process that fetches the file, so that the others wait for it
    .lock                locked while files are counted, renamed and room is made, never during a transfer

Whoever reads a file holds a shared lock on it, and locked files are not removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.durable import storage_errors, sync_directory

WHOLE = re.compile(r"[0-9a-f]{64}")
PARTIAL = re.compile(r"[0-9a-f]{64}\.(\d+)\.[0-9a-f]{8}")
POLL_SECONDS = 0.05


class NoRoomError(Exception):
    """Every file that could make way is in use."""


class DiskCache:
    """Files by the SHA-256 of their content, of `capacity` bytes at most together."""

    def __init__(self, directory: Path, capacity: int) -> None:
        """Raises StorageError where the directory cannot be made."""
        self.directory, self.capacity = directory, capacity
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)

    def open(self, digest: str) -> IO[bytes] | None:
        """The file, which stays until it is closed; None where it is not there."""
        try:
            file = (self.directory / digest).open("rb")
        except FileNotFoundError:
            return None
        # Only one that is removing the file holds its lock alone.
        if not _try_lock(file, fcntl.LOCK_SH) or os.fstat(file.fileno()).st_nlink == 0:
            file.close()
            return None
        os.utime(file.fileno())
        return file

    def has(self, digest: str) -> bool:
        """Whether the file is there."""
        return (self.directory / digest).exists()

    @contextmanager
    def writing(self, digest: str, size: int) -> Iterator[tuple[Path, Callable[[], None]]]:
        """A path to write the file to, for which room has been made, and a function that keeps what was written.

        What is not kept is removed. Raises NoRoomError.
        """
        path = self.directory / f"{digest}.{size}.{secrets.token_hex(4)}"
        with self._counting():
            self._make_room(size)
            file = path.open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)

        def keep() -> None:
            with path.open("rb") as written:
                os.fsync(written.fileno())
            # One that is counting would otherwise miss a file that changes its name meanwhile.
            with self._counting():
                path.replace(self.directory / digest)
            sync_directory(self.directory)

        try:
            yield path, keep
        finally:
            path.unlink(missing_ok=True)
            file.close()

    @contextmanager
    def alone(self, digest: str, wait: Callable[[float], None]) -> Iterator[None]:
        """Be the only process that fetches this file. `wait` sleeps so long, or raises where that is too long."""
        path = self.directory / f"{digest}.fetch"
        with path.open("ab") as file:
            while not _try_lock(file, fcntl.LOCK_EX):
                wait(POLL_SECONDS)
            yield
            path.unlink(missing_ok=True)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        with (self.directory / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until there is room for so many bytes."""
        used, old = 0, []
        for path in self.directory.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if match := PARTIAL.fullmatch(path.name):
                used += 0 if _remove_unused(path) else int(match[1])
            elif WHOLE.fullmatch(path.name):
                used += status.st_size
                old.append((status.st_mtime_ns, path, status.st_size))
        for _, path, bytes_ in sorted(old):
            if used + size <= self.capacity:
                return
            if _remove_unused(path):
                used -= bytes_
        if used + size > self.capacity:
            raise NoRoomError


def _remove_unused(path: Path) -> bool:
    """Remove a file unless a process has a lock on it; return whether it was removed."""
    try:
        with path.open("rb") as file:
            if not _try_lock(file, fcntl.LOCK_EX):
                return False
            path.unlink(missing_ok=True)
            return True
    except FileNotFoundError:
        return True


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
