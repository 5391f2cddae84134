"""WebP files: a RIFF container of chunks of (kind, length, content)."""

from __future__ import annotations

import struct

from pipeline.data.format.picture_files.orientation import orientation_of
from pipeline.data.format.picture_files.parts import DamageError, PictureFile, check_parts
from pipeline.errors import DataError

FIRST = 12
ANIMATION = 1 << 1


def read(content: bytes) -> PictureFile:
    """Read a WebP: its size is in its first chunk, and its orientation in a later one."""
    if content[8:12] != b"WEBP":
        raise DataError("it is not an image in a supported format: a RIFF file, but not a WebP")
    width, height = _size(content)
    exif, xmp = b"", b""
    place, count = FIRST, 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        if kind == b"EXIF":
            exif = exif or content[place + 8 : place + 8 + size]
        elif kind == b"XMP ":
            xmp = xmp or content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
        count += 1
        check_parts(count, "chunks")
    is_animated = content[FIRST : FIRST + 4] == b"VP8X" and bool(content[FIRST + 8] & ANIMATION)
    return PictureFile("WEBP", width, height, orientation_of(exif, xmp), frames_follow=is_animated)


def _size(content: bytes) -> tuple[int, int]:
    kind, start = content[FIRST : FIRST + 4], FIRST + 8
    if kind == b"VP8X":
        width, height = (
            int.from_bytes(content[place : place + 3], "little") for place in (start + 4, start + 7)
        )
        return width + 1, height + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    raise DamageError("it does not begin with an image")
