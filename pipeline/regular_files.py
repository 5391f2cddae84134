"""The one way to open a file that this process did not write a moment ago.

Data sets, run directories and caches may hold anything in the place of a file: a named pipe would block the reader for
ever, a device has no end, and a link can lead to files that were never part of the set. Each of these is an OSError
here, whose `strerror` says in plain words what is there, so that callers treat it like any unreadable file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

MORE_BYTES = 1 << 16
"""Of a file that grows, or whose size is not known before it is read."""
_KINDS = (
    (stat.S_ISDIR, "it is a directory"),
    (stat.S_ISFIFO, "it is a named pipe, not a file"),
    (stat.S_ISSOCK, "it is a socket, not a file"),
    (stat.S_ISBLK, "it is a device, not a file"),
    (stat.S_ISCHR, "it is a device, not a file"),
)


def open_regular(path: Path, within: Path | None = None) -> IO[bytes]:
    """Open a regular file for reading, without waiting for anything.

    With `within`, the directory of the set that the file belongs to, `path` may be a link only if it leads to a file
    below that directory. Without it, the user named this file, and links are followed. Raises OSError.
    """
    if within is not None and path.is_symlink():
        _check_link(path, within)
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int, within: Path | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes; `within` as for `open_regular`. Raises OSError."""
    with open_regular(path, within) as file:
        # Memory is taken for as much as is asked for, so no more is asked for than the file seems to have.
        content = file.read(min(os.fstat(file.fileno()).st_size, limit))
        while len(content) <= limit and (more := file.read(min(MORE_BYTES, limit + 1 - len(content)))):
            content += more
    if len(content) > limit:
        raise OSError(
            errno.EFBIG, f"it has more than the {limit:,} bytes that such a file can have", str(path)
        )
    return content


def regular_size(path: Path, within: Path | None = None) -> int:
    """The size in bytes of a regular file, without opening it; `within` as for `open_regular`. Raises OSError."""
    if within is not None and path.is_symlink():
        _check_link(path, within)
    found = path.stat()
    _check_mode(found.st_mode, path)
    return found.st_size


def is_absent(path: Path) -> bool:
    """Whether nothing is there, not even a link that leads nowhere."""
    return not os.path.lexists(path)


def check_regular(descriptor: int, path: Path) -> None:
    """Raise OSError, which says what `path` is, unless the open descriptor is a regular file."""
    _check_mode(os.fstat(descriptor).st_mode, path)


def _check_mode(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(mode)), "it is not a regular file")
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, kind, str(path))


def _check_link(path: Path, within: Path) -> None:
    """Raise OSError if the link leads out of the directory."""
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(Path(os.path.realpath(within))):
        raise OSError(errno.ELOOP, f"it is a link to {target}, outside of {within}", str(path))
