"""The one way to write files: complete or absent, even if the process or the machine stops, and never through a link.

A directory that we write to may have been made by others. A link in it, in the place of a file of ours, could lead to
any file of the user. So new files are created exclusively, and a link is replaced or refused but never followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import StorageError
from pipeline.regular_files import check_regular


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Inside this context an OSError becomes a StorageError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. {advice(error)}, and run the same command "
            "again."
        ) from None


def advice(error: OSError) -> str:
    """What the user can do about this error, as the start of a sentence."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "Free some space or choose another place"
        case errno.EROFS:
            return "Mount the file system for writing or choose another place"
        case errno.EACCES | errno.EPERM:
            return "Get permission to write there or choose another place"
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST | errno.ENOTEMPTY | errno.ELOOP | errno.EINVAL:
            return "Move away what is there or choose another place"
        case errno.ENAMETOOLONG:
            return "Choose a shorter name"
        case _:
            return "Choose another place"


@contextmanager
def replacing(path: Path, is_shared: bool = False) -> Iterator[IO[bytes]]:
    """A file that replaces `path` when all of it is on disk. Raises StorageError.

    With `is_shared`, several processes may write the same file at once: each uses its own temporary file.
    """
    token = f".{secrets.token_hex(4)}" if is_shared else ""
    temporary = path.with_name(f".{path.name}{token}.tmp")
    with storage_errors(path):
        try:
            temporary.unlink(missing_ok=True)  # left by a process that was killed
            with create_file(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content completely, or leave it unchanged. Raises StorageError."""
    with replacing(path) as file:
        file.write(text.encode())


def create_file(path: Path) -> IO[bytes]:
    """Create a file for reading and writing. Raises FileExistsError if anything is there, be it a link to nowhere."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "w+b")


def open_for_append(path: Path) -> IO[bytes]:
    """Open a file for reading and appending, or create it.

    Raises OSError unless it is a regular file with one name: with a second one (a hard link), both would change.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, _link(path), str(path)) from None
        raise
    try:
        check_regular(descriptor, path)
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(
                errno.EINVAL, "it has a second name (a hard link), whose file would change too", str(path)
            )
        return os.fdopen(descriptor, "a+b")
    except BaseException:
        os.close(descriptor)
        raise


def make_directory(path: Path) -> None:
    """Make a directory, with those above it, unless it exists. Raises OSError if a link or a file is in its place."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, _link(path), str(path))
    path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """Delete a directory with all that is in it; of a link, only the link. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _link(path: Path) -> str:
    return f"it is a link to {os.path.realpath(path)}, which is not followed"


def make_directory_of(path: Path) -> None:
    """Make the directory that a file is to be written to. Raises StorageError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Raise StorageError unless a file can be written at `path`; for before work whose result goes there."""
    make_directory_of(path)
    trial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors(path):
        create_file(trial).close()
        trial.unlink()


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to the disk: until then a rename can be lost."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
