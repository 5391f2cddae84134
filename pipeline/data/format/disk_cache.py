"""A directory of downloaded files with a size limit, shared by all processes of a machine.

    SHA256               a complete file, named after the hash of its content
    SHA256.BYTES.TOKEN   a file that is being written; the writer holds a lock on it, which ends if it is killed
    SHA256.fetch         locked by the process that downloads the file, so that the others wait for it
    .lock                locked while files are counted, renamed or removed, but never during a download

Each reader holds a shared lock on its file, and locked files are not removed.
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
    """There is not enough room, and every file that could be removed is in use."""


class DiskCache:
    """Files named after the SHA-256 of their content, which take at most `capacity` bytes together."""

    def __init__(self, directory: Path, capacity: int) -> None:
        """Raises StorageError if the directory cannot be created."""
        self.directory, self.capacity = directory, capacity
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)

    def open(self, digest: str) -> IO[bytes] | None:
        """Open the file, which is not removed before it is closed; None if it is not here."""
        try:
            file = (self.directory / digest).open("rb")
        except FileNotFoundError:
            return None
        # Only a process that removes the file holds an exclusive lock on it.
        if not _try_lock(file, fcntl.LOCK_SH) or os.fstat(file.fileno()).st_nlink == 0:
            file.close()
            return None
        os.utime(file.fileno())
        return file

    def has(self, digest: str) -> bool:
        """Whether the file is in the cache."""
        return (self.directory / digest).exists()

    @contextmanager
    def writing(self, digest: str, size: int) -> Iterator[tuple[Path, Callable[[], None]]]:
        """Make room, and yield a path to write the file to and a function to call when it is complete.

        A file that is not kept with that function is removed at the end. Raises NoRoomError.
        """
        path = self.directory / f"{digest}.{size}.{secrets.token_hex(4)}"
        with self._counting():
            self._make_room(size)
            file = path.open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)

        def keep() -> None:
            with path.open("rb") as written:
                os.fsync(written.fileno())
            # Without the lock, a process that counts files at this moment could miss the renamed one.
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
        """Be the only process that downloads this file. `wait(seconds)` sleeps, or raises if the time is up."""
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
        """Remove the least recently used files until there is room for `size` more bytes."""
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
    """Remove a file unless a process holds a lock on it; return whether it was removed."""
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
