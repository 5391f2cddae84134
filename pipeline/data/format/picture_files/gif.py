"""GIF files: a header, blocks of metadata, and frames, of which only the first one is used."""

from __future__ import annotations

import struct

from pipeline.data.format.picture_files.parts import DamageError, PictureFile, check_parts

EXTENSION, FRAME = 0x21, 0x2C


def read(content: bytes) -> PictureFile:
    """Read a GIF up to its first frame, and look for a second one. Raises DamageError if there is none."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while content[place] == EXTENSION:
        place += 2
        while size := content[place]:
            place += size + 1
            blocks += 1
            check_parts(blocks, "blocks")
        place += 1
        blocks += 1
    if content[place] != FRAME:
        raise DamageError("it has no image")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", content, place + 1)
    # Decoders enlarge the image to hold the frame.
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    return PictureFile("GIF", width, height, frames_follow=_has_another(content, place))


def _has_another(content: bytes, place: int) -> bool:
    """Whether another frame follows the one at this place. Decoders bear it if the file ends before its end mark."""
    try:
        flags = content[place + 9]
        place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while True:
            while size := content[place]:
                place += size + 1
            kind = content[place + 1]
            if kind != EXTENSION:
                return kind == FRAME
            place += 3
    except IndexError:
        return False
