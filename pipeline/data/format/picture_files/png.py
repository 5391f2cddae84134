"""PNG files: a signature and chunks of (length, kind, content, CRC-32)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.data.format.picture_files.orientation import orientation_of
from pipeline.data.format.picture_files.parts import DamageError, PictureFile, check_parts

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33
PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
"""All that decoders need. Others hold metadata and further frames, which decoders unpack and complain about."""
CRITICAL = frozenset((b"IHDR", b"IDAT", b"IEND"))
END = b"\0\0\0\0IEND\xaeB`\x82"
TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
MAX_TEXT_BYTES = 1 << 22
PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
XMP_KEYWORD = b"XML:com.adobe.xmp"

_START = struct.Struct(">I4s")


class Chunk(NamedTuple):
    """A chunk: its content lies between `start` and `end`, 8 bytes after its own start and 4 before its end."""

    kind: bytes
    start: int
    end: int


def read(content: bytes) -> PictureFile:
    """Read a PNG. Raises DamageError unless all chunks are there and have their checksums."""
    view = memoryview(content)
    kinds, exif, xmp, frames = set(), b"", b"", 1
    for kind, start, end in chunks(view):
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DamageError(f"the checksum of its part {_name(kind)} is wrong")
        kinds.add(kind)
        if kind == b"eXIf":
            exif = content[start:end]
        elif kind == b"acTL":
            frames = int.from_bytes(view[start : start + 4], "big")
        elif kind in TEXTS:
            keyword, text = _text(kind, content[start:end])
            exif = exif or (_raw_profile(text) if keyword in PROFILES else b"")
            xmp = xmp or (text if keyword == XMP_KEYWORD else b"")
    width, height = struct.unpack_from(">II", content, 16)
    has_more = not kinds.isdisjoint((b"acTL", b"eXIf"))
    orientation = orientation_of(exif, xmp)
    return PictureFile("PNG", width, height, orientation, b"tRNS" not in kinds, has_more, frames > 1)


def chunks(content: memoryview) -> Iterator[Chunk]:
    """The chunks up to the end mark. Raises DamageError if one is missing, cut short or in the wrong place."""
    place, count, before = len(SIGNATURE), 0, b""
    while before != b"IEND":
        if place + 12 > len(content):
            raise DamageError("it ends before its end mark")
        size, kind = _START.unpack_from(content, place)
        end = place + 8 + size
        if end + 4 > len(content):
            raise DamageError(
                f"its part {_name(kind)} says that it has {size:,} bytes, but the file ends before them"
            )
        if (kind == b"IHDR") != (not count) or (kind == b"IHDR" and size != 13):
            raise DamageError("it does not begin with one header")
        yield Chunk(kind, place + 8, end)
        place, before, count = end + 4, kind, count + 1
        check_parts(count, "chunks")


def only_pixels(content: memoryview, kept: frozenset[bytes] = PIXELS) -> memoryview:
    """The file without metadata; itself if it has none. Raises DamageError as `chunks` does."""
    if _is_bare(content):
        return content
    found = list(chunks(content))
    if all(chunk.kind in kept for chunk in found):
        return content
    parts = [content[chunk.start - 8 : chunk.end + 4] for chunk in found if chunk.kind in kept]
    return memoryview(b"".join((SIGNATURE, *parts)))


def _is_bare(content: memoryview) -> bool:
    """Whether the header is followed by pixels and the end mark only. Quick, because it is asked at each reading."""
    place, last = HEADER_BYTES, len(content) - len(END)
    while place < last:
        size, kind = _START.unpack_from(content, place)
        if kind != b"IDAT":
            return False
        place += size + 12
    return place == last and content[last:] == END


def _name(kind: bytes) -> str:
    return kind.decode("latin-1")


def _text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """(keyword, text) of a text chunk; what cannot be read is an empty text."""
    keyword, _, rest = content.partition(b"\0")
    if keyword != XMP_KEYWORD and keyword not in PROFILES:
        return keyword, b""
    if kind == b"tEXt":
        return keyword, rest
    if kind == b"zTXt":
        return keyword, _uncompress(rest[1:])
    compressed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    return keyword, _uncompress(text) if compressed else text


def _uncompress(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """The Exif data that ImageMagick writes as text: a name, a length, and hexadecimal digits in lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
