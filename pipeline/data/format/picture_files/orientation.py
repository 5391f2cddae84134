"""How an image must be turned, from Exif data or XMP: the one place that knows, for every format and every command."""

from __future__ import annotations

import re
import struct

from pipeline.data.format.picture_files.tags import ORIENTATION, integers, read_layout, read_tags

EXIF_START = b"Exif\0\0"
XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\b""")
UPRIGHT = 1


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """1 to 8, from Exif data or else from XMP; both may be empty. What cannot be read does not turn an image."""
    return _in_exif(exif.removeprefix(EXIF_START)) or _in_xmp(xmp) or UPRIGHT


def _in_exif(exif: bytes) -> int | None:
    try:
        layout = read_layout(exif)
        for tag in read_tags(exif, layout):
            if tag.number == ORIENTATION:
                values = integers(exif, layout, tag) if tag.count == 1 else ()
                return values[0] if values and 1 <= values[0] <= 8 else None
    except (ValueError, struct.error):  # many cameras write broken Exif data
        return None
    return None


def _in_xmp(xmp: bytes) -> int | None:
    match = XMP.search(xmp)
    return int(match[1]) if match else None
