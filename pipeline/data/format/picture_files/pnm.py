"""PNM files (PBM, PGM, PPM): a short header in text, then pixels as bytes or as decimal numbers.

Decoded here, because Pillow takes ten seconds for a megabyte of decimal numbers.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.data.format.picture_files.parts import DamageError, PictureFile
from pipeline.errors import DataError

SIGNATURES = tuple(b"P%d" % kind for kind in range(1, 7))
BITMAPS, COLOURS, DECIMALS = (1, 4), (3, 6), (1, 2, 3)
MAX_HEADER_BYTES, MAX_TEXT_BYTES = 1 << 16, 1 << 26
MAX_DIGITS = 10
_COMMENT = re.compile(rb"#[^\r\n]*")
_FIELD = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([0-9]{1,%d})(?=\s)" % MAX_DIGITS)

Bytes = npt.NDArray[np.uint8]


class Header(NamedTuple):
    """The header of a PNM: `kind` is the digit after the P, `white` the value of full brightness."""

    kind: int
    width: int
    height: int
    white: int
    start: int
    """The place of the first pixel"""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 3 if self.kind in COLOURS else 1

    @property
    def bytes(self) -> int:
        """The size of the pixels, unless they are decimal numbers."""
        row = self.width * self.channels
        if self.kind in BITMAPS:
            return -(-row // 8) * self.height
        return row * self.height * (1 if self.white <= 255 else 2)


def read(content: bytes) -> PictureFile:
    """Read the header of a PNM, and look for another one after its bytes of pixels."""
    header = read_header(content)
    end = header.start + header.bytes
    return PictureFile("PPM", header.width, header.height, frames_follow=content[end : end + 2] in SIGNATURES)


def read_header(content: bytes) -> Header:
    """The fields of the header. Raises DamageError for one that is not complete."""
    kind, place, fields = content[1] - ord("0"), 2, []
    for _ in range(2 if kind in BITMAPS else 3):
        match = _FIELD.match(content, place, MAX_HEADER_BYTES)
        if match is None:
            raise DamageError("its header has no width, height or brightest value")
        fields.append(int(match[1]))
        place = match.end()
    width, height, white = (*fields, 1)[:3]
    if not 1 <= white <= 65535:
        raise DamageError(f"its brightest value is {white:,}, but must be 1 to 65,535")
    return Header(kind, width, height, white, place + 1)


def decode(content: bytes) -> Bytes:
    """The pixels, uint8 (height, width, 1 or 3), of a PNM of 8 bits; its size must have been checked.

    Values of another range are scaled to 0 to 255. Raises DamageError if pixels are missing or out of range.
    """
    header = read_header(content)
    if header.white > 255 and header.channels == 1:
        raise DataError(
            "it is a grey PNM of 16 bits, whose value range differs between programs; convert it to 8 bits per channel"
        )
    shape = (header.height, header.width, header.channels)
    values = _decimals(content, header) if header.kind in DECIMALS else _binary(content, header)
    if header.kind in BITMAPS:
        return np.where(values, np.uint8(0), np.uint8(255)).reshape(shape)  # in bitmaps, 1 is black
    if header.white == 255:
        return values.astype(np.uint8, copy=False).reshape(shape)
    table = np.rint(np.arange(header.white + 1) / header.white * 255).astype(np.uint8)
    return table[values].reshape(shape)


def _binary(content: bytes, header: Header) -> npt.NDArray[np.uint8 | np.uint16]:
    """The values of the pixels in their order, one bit, one byte or two bytes each."""
    stored = _first(memoryview(content)[header.start :], header.bytes)
    if header.kind in BITMAPS:
        packed = np.frombuffer(stored, np.uint8)
        return np.unpackbits(packed.reshape(header.height, -1), axis=1, count=header.width * header.channels)
    return _in_range(np.frombuffer(stored, np.uint8 if header.white <= 255 else ">u2"), header)


def _first(stored: memoryview, count: int) -> memoryview:
    if len(stored) < count:
        raise DamageError(f"it has {len(stored):,} of {count:,} bytes of pixels")
    return stored[:count]


def _decimals(content: bytes, header: Header) -> npt.NDArray[np.int64]:
    """The same for decimal numbers; those of bitmaps have one digit and need no spaces between them."""
    if len(content) > MAX_TEXT_BYTES:
        raise DataError(f"it has more than {MAX_TEXT_BYTES >> 20} MiB of decimal numbers; convert it to PNG")
    text = _COMMENT.sub(b"", content[header.start :])
    if text.translate(None, b"0123456789 \t\r\n\v\f"):
        raise DamageError("there is something else among its decimal numbers")
    count = header.width * header.height * header.channels
    if header.kind in BITMAPS:
        found = np.frombuffer(b"".join(text.split())[:count], np.uint8).astype(np.int64) - ord("0")
    else:
        found = np.fromstring(text, np.int64, sep=" ")[:count]
    if len(found) < count:
        raise DamageError(f"it has {len(found):,} of {count:,} values")
    return _in_range(found, header)


Values = TypeVar("Values", bound=npt.NDArray[Any])


def _in_range(values: Values, header: Header) -> Values:
    highest = int(values.max())
    if highest > header.white:
        raise DamageError(f"it has the value {highest:,}, but its brightest value is {header.white:,}")
    return values
