"""Plain tar files, written at the speed of the disk.

Python's `tarfile` spends more time on a member's header than decoding a small image takes.
"""

from __future__ import annotations

import hashlib
from typing import IO

BLOCK = 512
END = bytes(2 * BLOCK)
NAME_BYTES = 100
MAX_MEMBER_BYTES = 8**11 - 1


class TarWriter:
    """Members of POSIX ustar format with equal bytes for equal content: no owner, and the time 0."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, content: bytes) -> int:
        """Append a member; return the offset of its content."""
        offset = self.bytes + BLOCK
        self._write(header(name, len(content)) + content + bytes(-len(content) % BLOCK))
        return offset

    def finish(self) -> str:
        """Write the end mark; return the SHA-256 of the whole file as hexadecimal digits."""
        self._write(END)
        return self._sha256.hexdigest()

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._sha256.update(block)
        self.bytes += len(block)


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a plain file's content (IEEE Std 1003.1, ustar interchange format)."""
    encoded = name.encode("ascii")
    if not 1 <= len(encoded) <= NAME_BYTES or size > MAX_MEMBER_BYTES:
        raise ValueError(f"a member {name!r} of {size} bytes does not fit the ustar format")
    before = (
        encoded.ljust(NAME_BYTES, b"\0") + b"0000444\x000000000\x000000000\x00%011o\x0000000000000\x00" % size
    )
    after = b"0".ljust(101, b"\0") + b"ustar\x0000"
    # The checksum counts its own eight bytes as spaces.
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return (before + b"%06o\x00 " % checksum + after).ljust(BLOCK, b"\0")
