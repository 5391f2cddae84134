"""Image files before they are decoded: format, size, orientation, and whether a decoder may see them.

Decoders do what a header asks for: a PNG of 48 bytes can take 4 GB, and a JPEG of 600 kB two minutes. The readers here
are short, look at each part once, and refuse what no picture needs. The first bytes choose one of seven formats; no
decoder of another format ever sees a file, because some of them start other programs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from pipeline.data.format.git_lfs import REASON as POINTER
from pipeline.data.format.git_lfs import is_pointer
from pipeline.data.format.picture_files import bmp, gif, jpeg, png, pnm, tiff, webp
from pipeline.data.format.picture_files.parts import DamageError, Kind, PictureFile, check_size
from pipeline.errors import DataError

FORMATS: tuple[Kind, ...] = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
READERS = {
    (png.SIGNATURE,): png.read,
    (b"\xff\xd8",): jpeg.read,
    (b"GIF87a", b"GIF89a"): gif.read,
    tiff.SIGNATURES: tiff.read,
    (b"BM",): bmp.read,
    pnm.SIGNATURES: pnm.read,
    (b"RIFF",): webp.read,
}
"""The reader for files that begin with one of these"""
_Reader = Callable[[bytes], PictureFile]
_BY_TWO_BYTES: dict[bytes, tuple[tuple[bytes, ...], _Reader]] = {
    start[:2]: (starts, read) for starts, read in READERS.items() for start in starts
}


def read_picture_file(content: bytes) -> PictureFile:
    """The format, size and orientation of an image file.

    Raises DataError if its format is not supported, if it has more than 64 million pixels or more parts than a decoder
    should see, or if its structure is damaged; the message does not name the file, so callers must add its name.
    """
    if not content:
        raise DataError("it is empty")
    starts, read = _BY_TWO_BYTES.get(content[:2], ((), None))
    if read is None or not content.startswith(starts):
        if is_pointer(content):
            raise DataError(f"it is {POINTER}")
        raise DataError(f"it is not an image in a supported format ({', '.join(FORMATS)})")
    try:
        picture = read(content)
        check_size(picture.width, picture.height)
    except DamageError as error:
        raise DataError(f"it is damaged: {error}") from None
    except (IndexError, ValueError, struct.error):
        raise DataError("it is damaged: its header is cut short or contradicts itself") from None
    return picture
