"""Locks between processes: the file system's own, or where it has none, a lease that its holder renews.

A lease is a file of its own for each holder, PATH.TOKEN.lease. A thread of the holder renews its modification time
every 5 seconds. A lease whose time has not changed for 30 seconds by the clock of the process that looks at it, so that
clocks of machines are never compared, belongs to a process that has ended, and is deleted. A holder that was only
stopped for that long finds its lease gone: `check` then raises RunLockedError, and it must write nothing more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline import stopping
from pipeline.documents import Document, parse_json
from pipeline.durable import create_file, open_for_append, storage_errors
from pipeline.errors import RunLockedError
from pipeline.foreign_text import printable
from pipeline.regular_files import read_regular
from pipeline.stderr import say_warning

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
BEAT_SECONDS, LEASE_SECONDS, LOOK_SECONDS = 5.0, 30.0, 0.25
MOST_BYTES = 1000
LEASE_NAME = r"\.[0-9a-f]{16}\.lease"
"""How the name of a lease goes on after that of the lock, as a regular expression."""


class HeldError(Exception):
    """Another process holds the lock; `args[0]` says which."""


class FileLock:
    """Held in a `with` block: by this process alone, or with `is_shared` also by others that share it.

    The file stays when the lock ends, which it also does if the process is killed.
    """

    def __init__(self, path: Path, is_shared: bool = False) -> None:
        self.path, self._is_shared = path, is_shared
        self._lease: Lease | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises HeldError, or StorageError if its file cannot be written."""
        with storage_errors(self.path):
            # For appending: if the lock is taken, the note of the process that holds it must stay.
            self._file = open_for_append(self.path)
        try:
            self._take()
            if not self._is_shared:
                with storage_errors(self.path):
                    self._file.truncate(0)
                    self._file.write(this_process().encode())
                    self._file.flush()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    @property
    def is_lost(self) -> bool:
        """Whether another process may have taken the lock. Only a lease can be lost, while its holder did not run."""
        return self._lease is not None and self._lease.is_lost

    def check(self) -> None:
        """Raise RunLockedError if the lock was lost."""
        if self.is_lost:
            raise RunLockedError(
                f"This process did not renew its lease of {self.path} for {LEASE_SECONDS:.0f} seconds, so another one "
                "may have taken it. It stops, so that two processes never write the same files. Run the same command "
                "again."
            )

    def _take(self) -> None:
        kind = fcntl.LOCK_SH if self._is_shared else fcntl.LOCK_EX
        with storage_errors(self.path):
            try:
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HeldError(_holder_in(self._file)) from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                say_warning(
                    f"the file system of {self.path} has no locks ({error.strerror}). A lease is used instead, which "
                    f"this process renews every {BEAT_SECONDS:.0f} seconds."
                )
                self._lease = Lease(self.path, self._is_shared)
                self._lease.take()

    def _release(self) -> None:
        if self._lease is not None:
            self._lease.release()
        self._file.close()


class LeaseNote(Document):
    """The content of a lease."""

    holder: str
    is_shared: bool


class Lease:
    """This process's lease of a lock."""

    def __init__(self, lock: Path, is_shared: bool) -> None:
        self._lock, self._note = lock, LeaseNote(holder=this_process(), is_shared=is_shared)
        self._path = lock.with_name(f"{lock.name}.{secrets.token_hex(8)}.lease")
        self._ended = threading.Event()
        self.is_lost = False

    def take(self) -> None:
        """Write it, renew it from now on, and wait until the leases of others have ended.

        Raises HeldError as soon as one of them is renewed, OSError if it cannot be written.
        """
        # Before looking for others: of two that start at the same time, at least one must see the other.
        with create_file(self._path) as file:
            file.write(self._note.model_dump_json().encode())
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        seen = {path: _time_of(path) for path in self._others()}
        if not seen:
            return
        say_warning(
            f"{self._lock} is leased by {self._holders(seen)}: waiting up to {LEASE_SECONDS:.0f} seconds to see "
            "whether that is still true."
        )
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until and any(_time_of(path) is not None for path in seen):
            for path, before in seen.items():
                if _time_of(path) not in (before, None):
                    raise HeldError(self._holders([path]))
            stopping.wait(LOOK_SECONDS)
        for path in seen:
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """End it."""
        self._ended.set()
        with suppress(OSError):  # of storage that is away: others will see that it is no longer renewed
            self._path.unlink()

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                os.utime(self._path, follow_symlinks=False)
            except FileNotFoundError:
                self.is_lost = not self._ended.is_set()
                return
            except OSError:
                # Storage that is away for a moment; if it is for longer, another process deletes the lease.
                continue

    def _others(self) -> list[Path]:
        """The leases of others that exclude this one."""
        pattern = re.compile(re.escape(self._lock.name) + LEASE_NAME)
        found = [path for path in self._lock.parent.iterdir() if pattern.fullmatch(path.name)]
        return [
            path
            for path in found
            if path != self._path and not (self._note.is_shared and _read_note(path).is_shared)
        ]

    def _holders(self, paths: Iterable[Path]) -> str:
        return ", ".join(printable(_read_note(path).holder) for path in paths)


def this_process() -> str:
    """This process in words, such as "process 12 on host"."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder_in(file: IO[bytes]) -> str:
    file.seek(0)
    return printable(file.read(MOST_BYTES).decode(errors="replace").strip()) or "another process"


def _time_of(path: Path) -> int | None:
    """The time at which a lease was last renewed, in nanoseconds of the file system's clock; None if it has ended."""
    try:
        # Opened, because network file systems may answer for a path from what they knew before.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _read_note(path: Path) -> LeaseNote:
    try:
        return parse_json(read_regular(path, MOST_BYTES), LeaseNote)
    except (OSError, ValueError):
        return LeaseNote(holder="another process", is_shared=False)  # just being written, or just ended
