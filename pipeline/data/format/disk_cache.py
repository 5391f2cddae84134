"""A directory of downloaded files with a size limit, shared by all processes of a machine.

    SHA256               a complete file, named after the hash of its content
    SHA256.BYTES.TOKEN   a file that is being written; the writer holds a lock on it, which ends if it is killed
    SHA256.fetch         locked by the process that downloads the file, so that the others wait for it
    .lock                locked while files are counted, renamed or removed, but never during a download

Each reader holds a shared lock on its file, and locked files are not removed. On a file system without locks there is a
warning, and the cache does without: an open file can be read after it was removed, a file that two processes download
gets the same content twice, and one that is being written is recognised by the time of its last change.

A file is hashed when it is written, and by each process before it first uses it, unless it has a mark: the time of its
last change is set to one that follows from its hash, and any later change replaces that. When it was last used is its
time of access. Whatever else is found in the place of a file is removed. All this is safe because nobody else can write
to the directory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.data.format.downloads import NoRoomError
from pipeline.durable import create_file, open_for_append, storage_errors, sync_directory
from pipeline.errors import ConfigError, StorageError
from pipeline.file_lock import WITHOUT_LOCKS
from pipeline.regular_files import open_regular
from pipeline.stderr import say_warning

WHOLE = re.compile(r"[0-9a-f]{64}")
PARTIAL = re.compile(r"[0-9a-f]{64}\.(\d{1,18})\.[0-9a-f]{8}")
POLL_SECONDS = 0.05
BLOCK = 1 << 22
LONGEST_WRITE = 3600.0
"""Seconds. Where there are no locks, a file that is being written has changed since."""
SMALL = 1 << 22
"""Files up to this size are hashed even if they have a mark, because that takes no time."""

IN_THE_WAY = (errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EISDIR, errno.EACCES, errno.EPERM)
"""What `open_for_append` says of anything that is no file of ours."""

Check = Callable[[], None]
Wait = Callable[[float], None]
"""Sleeps for so many seconds, or raises if the time is up."""


class DiskCache:
    """Files named after the SHA-256 of their content, which take at most `capacity` bytes together."""

    def __init__(self, directory: Path, capacity: int) -> None:
        """Raises StorageError if the directory cannot be created, ConfigError if other users can write to it."""
        self.directory, self.capacity = directory.resolve(), capacity
        with storage_errors(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_other_writers(self.directory)
        self._locks = _Locks(self.directory)
        self._verified: dict[str, tuple[int, ...]] = {}

    def open(self, digest: str, check: Check) -> IO[bytes] | None:
        """Open the file, which is not removed before it is closed; None if it is not here.

        A file that has another content is removed. `check` is called while it is hashed.
        """
        path = self.directory / digest
        try:
            file = open_regular(path, within=self.directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._remove_other(path, error)
            return None
        try:
            # Only a process that removes the file holds an exclusive lock on it.
            if self._locks.take(file, fcntl.LOCK_SH) and os.fstat(file.fileno()).st_nlink:
                if self._is_sound(file, digest, check):
                    return file
                say_warning(f"{path} has changed since it was downloaded, and is downloaded again")
                path.unlink(missing_ok=True)
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def has(self, digest: str) -> bool:
        """Whether there is such a file in the cache, sound or not."""
        return (self.directory / digest).is_file()

    def distrust(self, digest: str, check: Check) -> bool:
        """Hash the file again, whatever its mark. Returns whether it was not sound, and is removed."""
        path = self.directory / digest
        self._verified.pop(digest, None)
        try:
            os.utime(path, follow_symlinks=False)
        except OSError:
            return False
        if (file := self.open(digest, check)) is not None:
            file.close()
        return file is None

    @contextmanager
    def writing(self, token: str, size: int, wait: Wait) -> Iterator[tuple[Path, Callable[[str], None]]]:
        """Make room, and yield a path to write the file to and a function to call when it is complete and sound.

        That function takes the SHA-256 of its content; until then it is known by a token of the same form.

        A file that is not kept with that function is removed at the end. Raises NoRoomError.
        """
        path = self.directory / f"{token}.{size}.{secrets.token_hex(4)}"
        with self._counting(wait):
            self._make_room(size)
            file = create_file(path)
            self._locks.take(file, fcntl.LOCK_EX)

        def keep(digest: str) -> None:
            with path.open("rb") as written:
                os.fsync(written.fileno())
                self._mark(written, digest)
            # Without the lock, a process that counts files at this moment could miss the renamed one.
            with self._counting(wait):
                path.replace(self.directory / digest)
            sync_directory(self.directory)

        try:
            yield path, keep
        finally:
            path.unlink(missing_ok=True)
            file.close()

    @contextmanager
    def alone(self, digest: str, wait: Wait) -> Iterator[None]:
        """Be the only process that downloads this file."""
        path = self.directory / f"{digest}.fetch"
        with self._locked(path, wait):
            yield
            path.unlink(missing_ok=True)

    @contextmanager
    def _counting(self, wait: Wait) -> Iterator[None]:
        with self._locked(self.directory / ".lock", wait):
            yield

    @contextmanager
    def _locked(self, path: Path, wait: Wait) -> Iterator[None]:
        with self._open_lock(path) as file:
            while not self._locks.take(file, fcntl.LOCK_EX):
                wait(POLL_SECONDS)
            yield

    def _open_lock(self, path: Path) -> IO[bytes]:
        try:
            return open_for_append(path)
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
            self._remove_other(path, error)
            return open_for_append(path)

    def _remove_other(self, path: Path, reason: OSError) -> None:
        """Remove what is in the place of a file of ours: a link, a named pipe, or another user's file."""
        try:
            path.unlink(missing_ok=True)
        except OSError:
            raise StorageError(
                f"{path} is in the way of a downloaded file, and cannot be removed: {reason.strerror}. Remove it."
            ) from None
        say_warning(f"{path} is removed, because {reason.strerror}")

    def _is_sound(self, file: IO[bytes], digest: str, check: Check) -> bool:
        """Whether the open file has this hash, which is computed unless that is known."""
        if not self._is_known(file, digest):
            if _sha256(file, check) != digest:
                return False
            file.seek(0)
        self._mark(file, digest)
        return True

    def _is_known(self, file: IO[bytes], digest: str) -> bool:
        status = os.fstat(file.fileno())
        if self._verified.get(digest) == _state(status):
            return True
        return status.st_size > SMALL and status.st_mtime_ns == _mark_of(digest)

    def _mark(self, file: IO[bytes], digest: str) -> None:
        """Note that the file is sound, and that it is used now."""
        with suppress(PermissionError):  # another user's file: each process hashes it once
            os.utime(file.fileno(), ns=(time.time_ns(), _mark_of(digest)))
        self._verified[digest] = _state(os.fstat(file.fileno()))

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until there is room for `size` more bytes."""
        used, old = 0, []
        for path in self.directory.iterdir():
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if match := PARTIAL.fullmatch(path.name):
                is_written = self._locks.are_missing and time.time() - status.st_mtime < LONGEST_WRITE
                used += 0 if not is_written and self._remove_unused(path) else int(match[1])
            elif WHOLE.fullmatch(path.name):
                used += status.st_size
                old.append((status.st_atime_ns, path, status.st_size))
        for _, path, bytes_ in sorted(old):
            if used + size <= self.capacity:
                return
            if self._remove_unused(path):
                used -= bytes_
        if used + size > self.capacity:
            raise NoRoomError

    def _remove_unused(self, path: Path) -> bool:
        """Remove a file unless a process holds a lock on it; return whether it was removed."""
        try:
            with open_regular(path, within=path.parent) as file:
                if not self._locks.take(file, fcntl.LOCK_EX):
                    return False
                path.unlink(missing_ok=True)
                return True
        except FileNotFoundError:
            return True
        except OSError:
            return _is_removed(path)


class _Locks:
    """The locks of the file system that the cache is on, if it has any."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.are_missing = False

    def take(self, file: IO[bytes], kind: int) -> bool:
        """Whether no other process has a lock on the file that excludes this one. It ends when the file is closed."""
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            if not self.are_missing:
                self.are_missing = True
                say_warning(
                    f"the file system of {self._directory} (data.remote.directory) has no locks ({error.strerror}). "
                    "The cache does without, so it may take more room than data.remote.capacity_gb, and only processes "
                    "of this machine may use it"
                )
        return True


def sha256_of(path: Path, check: Check) -> str:
    """The SHA-256 of a file in hexadecimal. `check` is called now and then."""
    with path.open("rb") as file:
        return _sha256(file, check)


def _sha256(file: IO[bytes], check: Check) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        check()
        digest.update(block)
    return digest.hexdigest()


def _mark_of(digest: str) -> int:
    """The time of the last change of a file that was found sound, in ns: between 1970 and 1987, in whole seconds."""
    return int(digest[:7], 16) * 2 * 10**9


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What changes with a file's content."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _refuse_other_writers(directory: Path) -> None:
    status, user = directory.stat(), os.geteuid()
    is_strange = status.st_uid not in (user, 0) and user != 0
    if not is_strange and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    raise ConfigError(
        f"data.remote.directory: other users can write to {directory} (its mode is {stat.S_IMODE(status.st_mode):o}), "
        "and so could exchange shards while they are used. "
        + (
            "It belongs to another user: choose another directory."
            if is_strange
            else f"Run `chmod go-w {directory}`, or choose another directory."
        )
    )


def _is_removed(path: Path) -> bool:
    """Remove what is no file that a process could use. Returns False for a directory."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
