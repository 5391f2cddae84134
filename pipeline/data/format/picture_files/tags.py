"""The tags of TIFF files, and of the Exif data in other formats, which is a small TIFF file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TAGS = 4096
ORIENTATION = 0x0112
SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""The bytes of one value by the number of its type"""
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Types of whole numbers without a sign, and their letters for `struct`"""


@dataclass(frozen=True)
class Layout:
    """How the numbers of one file are stored: `order` is < or >, and big files have offsets of 8 bytes."""

    order: str
    is_big: bool
    first: int
    """The offset of the first directory"""

    @property
    def entry(self) -> struct.Struct:
        """tag, type, count, and the value or its offset."""
        return struct.Struct(self.order + ("HHQ8s" if self.is_big else "HHI4s"))

    @property
    def count(self) -> struct.Struct:
        """The number of tags, at the start of a directory."""
        return struct.Struct(self.order + ("Q" if self.is_big else "H"))

    @property
    def head(self) -> int:
        """The bytes before the offset of the first directory."""
        return 8 if self.is_big else 4

    @property
    def offset(self) -> struct.Struct:
        """A place in the file."""
        return struct.Struct(self.order + ("Q" if self.is_big else "I"))


@dataclass(frozen=True)
class Tag:
    """One tag: its type, its number of values, the 4 or 8 bytes of its entry, and where its values begin."""

    number: int
    kind: int
    count: int
    stored: bytes
    start: int

    @property
    def bytes(self) -> int:
        """The size of all values; 0 for an unknown type."""
        return self.count * SIZES.get(self.kind, 0)


def read_layout(content: bytes) -> Layout:
    """The layout of a TIFF file by its first 8 or 16 bytes. Raises ValueError or struct.error."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        raise ValueError("no byte order")
    (version,) = struct.unpack_from(order + "H", content, 2)
    if version == 42:
        return Layout(order, False, *struct.unpack_from(order + "I", content, 4))
    if version == 43 and content[4:8] == struct.pack(order + "HH", 8, 0):
        return Layout(order, True, *struct.unpack_from(order + "Q", content, 8))
    raise ValueError(f"version {version}")


def read_tags(content: bytes, layout: Layout) -> Iterator[Tag]:
    """The tags of the first directory. Raises ValueError for too many, struct.error if the file ends before them."""
    (count,) = layout.count.unpack_from(content, layout.first)
    if count > MAX_TAGS:
        raise ValueError(f"{count} tags")
    place, entry = layout.first + layout.count.size, layout.entry
    for _ in range(count):
        number, kind, values, stored = entry.unpack_from(content, place)
        inline = place + entry.size - len(stored)
        fits = values * SIZES.get(kind, 0) <= len(stored)
        yield Tag(number, kind, values, stored, inline if fits else layout.offset.unpack(stored)[0])
        place += entry.size


def next_directory(content: bytes, layout: Layout) -> int:
    """The offset of the second directory; 0 if there is none. Raises struct.error if the first one is cut short."""
    (count,) = layout.count.unpack_from(content, layout.first)
    end = layout.first + layout.count.size + count * layout.entry.size
    offset: int = layout.offset.unpack_from(content, end)[0]
    return offset


def integers(content: bytes, layout: Layout, tag: Tag) -> tuple[int, ...]:
    """The values of a tag of whole numbers; empty for other types. Raises struct.error if the file ends before them."""
    letter = INTEGERS.get(tag.kind)
    if letter is None or tag.bytes > len(content):
        return ()
    return struct.unpack_from(f"{layout.order}{tag.count}{letter}", content, tag.start)
