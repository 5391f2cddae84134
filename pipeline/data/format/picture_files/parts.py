"""What is known of an image file before it is decoded, and the limits that all formats share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pipeline.errors import DataError

Kind = Literal["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]

MAX_PIXELS = 64_000_000
MAX_PARTS = 100_000
"""Of chunks, segments, blocks or strips; photos have some dozens, and at most a few thousand."""


class PictureFile(NamedTuple):
    """An image file before it is decoded. `width` and `height` are those of the pixels before they are turned."""

    kind: Kind
    width: int
    height: int
    orientation: int = 1
    """How the pixels must be turned or mirrored to be upright, from 1, upright, to 8, as in Exif"""
    is_opaque: bool = True
    """False for a PNG with a transparent colour or palette; of other formats only a decoder knows"""
    has_more: bool = False
    """Whether it holds Exif data or further images besides its pixels"""
    frames_follow: bool = False
    """Whether its picture is the first of several frames or pages; previews do not count"""

    @property
    def is_plain(self) -> bool:
        """Whether its pixels can be used as they are stored."""
        return self.orientation == 1 and self.is_opaque and not self.has_more

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) of the image as it is shown."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class DamageError(ValueError):
    """A file contradicts itself; the message says how. Callers make a DataError of it."""


def check_size(width: int, height: int) -> None:
    """Raise DataError for an image of so many pixels that it could be a bomb, and DamageError for one without any."""
    if width < 1 or height < 1:
        raise DamageError(f"its size is {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise DataError(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}, the limit for decoding")


def check_parts(count: int, what: str) -> None:
    """Raise DataError for a file with so many parts that decoding takes minutes."""
    if count > MAX_PARTS:
        raise too_many_parts(what)


def too_many_parts(what: str) -> DataError:
    """The error for a file with more than MAX_PARTS parts."""
    return DataError(f"it has more than {MAX_PARTS:,} {what}, which no image needs")
