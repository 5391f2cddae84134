"""BMP files: a header, a palette and rows of pixels, which may be run-length coded."""

from __future__ import annotations

import struct

from pipeline.data.format.picture_files.parts import PictureFile
from pipeline.errors import DataError

OLD_HEADER_BYTES = 12
RUN_LENGTH = (1, 2)
MAX_RUN_LENGTH_PIXELS, MAX_RUN_LENGTH_BYTES = 1 << 24, 1 << 23
"""Pillow decodes runs in Python: larger files would take minutes."""


def read(content: bytes) -> PictureFile:
    """Read the header of a BMP."""
    (header_bytes,) = struct.unpack_from("<I", content, 14)
    if header_bytes == OLD_HEADER_BYTES:
        return PictureFile("BMP", *struct.unpack_from("<HH", content, 18))
    width, height = struct.unpack_from("<ii", content, 18)
    (compression,) = struct.unpack_from("<I", content, 30)
    height = abs(height)  # negative if the rows go from top to bottom
    if compression in RUN_LENGTH and (
        width * height > MAX_RUN_LENGTH_PIXELS or len(content) > MAX_RUN_LENGTH_BYTES
    ):
        raise DataError(
            "it is a large run-length coded BMP, which takes minutes to decode; convert it to PNG"
        )
    return PictureFile("BMP", width, height)
