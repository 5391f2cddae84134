"""Writes plain tar files at the speed of the disk.

Python's `tarfile` needs more time for a member's header than it takes to decode a small image.
"""

from __future__ import annotations

import hashlib
from typing import IO

BLOCK = 512
END = bytes(2 * BLOCK)
NAME_BYTES = 100
MAX_MEMBER_BYTES = 8**11 - 1
# The header behind its checksum: a plain file, and the format.
_AFTER = (b"0".ljust(101, b"\0") + b"ustar\x0000").ljust(BLOCK - 156, b"\0")
_SUM_AFTER = sum(_AFTER) + 8 * ord(" ")


class TarWriter:
    """Writes POSIX ustar members. The same content always gives the same bytes: no owner, and the time is 0."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, content: bytes) -> int:
        """Append a member and return the offset of its content in the file."""
        offset = self.bytes + BLOCK
        self._write(header(name, len(content)) + content + bytes(-len(content) % BLOCK))
        return offset

    def finish(self) -> str:
        """Write the end-of-archive mark and return the SHA-256 of the whole file in hexadecimal."""
        self._write(END)
        return self._sha256.hexdigest()

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._sha256.update(block)
        self.bytes += len(block)


def header(name: str, size: int) -> bytes:
    """The 512-byte header of a plain file (IEEE Std 1003.1, ustar interchange format).

    Raises ValueError if the name is not 1 to 100 ASCII characters or if the size does not fit.
    """
    encoded = name.encode("ascii")
    if not 1 <= len(encoded) <= NAME_BYTES or size > MAX_MEMBER_BYTES:
        raise ValueError(f"a member {name!r} of {size:,} bytes does not fit the ustar format")
    before = (
        encoded.ljust(NAME_BYTES, b"\0") + b"0000444\x000000000\x000000000\x00%011o\x0000000000000\x00" % size
    )
    # The checksum is computed as if its own eight bytes were spaces.
    return before + b"%06o\x00 " % (sum(before) + _SUM_AFTER) + _AFTER
