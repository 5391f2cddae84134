"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Within it, an OSError becomes a StorageError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. {advice(error)}, and run the same command "
            "again."
        ) from None


def advice(error: OSError) -> str:
    """What a user can do about it."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "Free some space or choose another place"
        case errno.EROFS:
            return "Mount the file system for writing or choose another place"
        case errno.EACCES | errno.EPERM:
            return "Get the permission to write there or choose another place"
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST | errno.ENOTEMPTY:
            return "Move away what stands there or choose another place"
        case errno.ENAMETOOLONG:
            return "Choose a shorter name"
        case _:
            return "Choose another place"


@contextmanager
def replacing(path: Path, is_shared: bool = False) -> Iterator[IO[bytes]]:
    """A file that gets its name, and replaces what had it, once all of it is on disk. Raises StorageError.

    Where several processes may write the same file at once (`is_shared`), each has a temporary of its own.
    """
    token = f".{secrets.token_hex(4)}" if is_shared else ""
    temporary = path.with_name(f".{path.name}{token}.tmp")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file's whole content, or leave it as it was. Raises StorageError."""
    with replacing(path) as file:
        file.write(text.encode())


def make_directory_of(path: Path) -> None:
    """Make the directory that a file is to be written to. Raises StorageError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk: a rename is not safe before that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
