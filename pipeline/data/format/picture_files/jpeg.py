"""JPEG files: segments of (marker, length, content), and compressed pixels, which may come in several scans."""

from __future__ import annotations

import struct

from pipeline.data.format.picture_files.orientation import EXIF_START, orientation_of
from pipeline.data.format.picture_files.parts import MAX_PARTS, DamageError, PictureFile, too_many_parts
from pipeline.errors import DataError

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segment that holds the size"""
LOOKED_AT = FRAMES | {0xE1, 0xE2}
"""Those and the application segments that hold Exif data, XMP and lists of further images"""
SCAN, FILL = 0xDA, 0xFF
STANDALONE = frozenset((*range(0xD0, 0xDA), 0x01, FILL))
"""Markers without a length; any number of fill bytes may stand before a marker"""
METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
"""Application segments and comments, without JFIF (E0) and Adobe (EE), which say how colours are stored"""
FURTHER_IMAGES = b"MPF\0"
XMP_START = b"http://ns.adobe.com/xap/1.0/\0"

MAX_SCANS = 100
MIN_SCAN_BYTES = 12
MAX_SCANNED_PIXELS = 1_500_000_000
"""Pixels times scans. Each scan of a progressive JPEG visits all pixels, even if it has only a few bytes."""


_SEGMENT = struct.Struct(">BBH")


Segment = tuple[int, int, int]
"""(marker, place of the marker, end) of a segment; its content begins 4 bytes after its place"""


def read(content: bytes) -> PictureFile:
    """Read a JPEG. Raises DamageError unless it has one size, and DataError for more scans than any photo has."""
    size: tuple[int, int] | None = None
    exif, xmp, has_more = b"", b"", False
    for marker, place, end in segments(content):
        if marker not in LOOKED_AT:
            continue
        if marker in FRAMES:
            if size is not None:
                raise DamageError("it has two sizes")
            size = struct.unpack_from(">HH", content, place + 5)
        elif marker == 0xE1 and content.startswith(EXIF_START, place + 4, end):
            # Exif data of more than 64 KiB continue in the next segment.
            exif += content[place + 4 + len(EXIF_START) : end]
            has_more = True
        elif marker == 0xE1 and content.startswith(XMP_START, place + 4, end):
            xmp = content[place + 4 + len(XMP_START) : end]
        elif marker == 0xE2 and content.startswith(FURTHER_IMAGES, place + 4, end):
            has_more = True
    if size is None:
        raise DamageError("it has no image")
    height, width = size
    if not is_quick(len(content), width * height):
        check_scans(content, width * height)
    orientation = orientation_of(exif, xmp) if exif or xmp else 1
    return PictureFile("JPEG", width, height, orientation, has_more=has_more)


def segments(content: bytes) -> list[Segment]:
    """The segments before the pixels; the last one is the start of the first scan."""
    found: list[Segment] = []
    place, length = 2, len(content)
    for _ in range(MAX_PARTS):
        start, marker, size = _SEGMENT.unpack_from(content, place)
        end = place + 2 + size
        if start != 0xFF:
            raise DamageError("it has other bytes in the place of a marker")
        if marker in STANDALONE:
            end = place + (2 if marker != FILL else 1)
        elif size < 2 or end > length:
            raise DamageError("it ends within its header")
        found.append((marker, place, end))
        if marker == SCAN:
            return found
        place = end
    raise too_many_parts("segments")


def check_scans(content: bytes, pixels: int, most: int = MAX_SCANS) -> None:
    """Raise DataError for a JPEG whose scans would take longer to decode than any photo's."""
    scans = content.count(b"\xff\xda")
    if scans > most or scans * pixels > MAX_SCANNED_PIXELS:
        raise DataError(
            f"it is stored in {scans:,} scans, each of {pixels:,} pixels, more than any photo needs; convert it to an "
            "ordinary JPEG"
        )


def is_quick(size: int, pixels: int) -> bool:
    """Whether a JPEG of this size in bytes is too small for so many scans that they take long; each has 12 bytes."""
    return size // MIN_SCAN_BYTES * pixels < MAX_SCANNED_PIXELS // 4


def only_pixels(content: bytes) -> bytes:
    """The file without Exif data, comments, profiles and previews."""
    found = segments(content)
    kept = [content[place:end] for marker, place, end in found if marker not in METADATA]
    return b"".join((content[:2], *kept, content[found[-1][2] :]))
