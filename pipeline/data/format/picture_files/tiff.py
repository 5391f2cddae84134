"""TIFF files: tags that say where the strips or tiles of pixels are, and much else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from pipeline.data.format.picture_files.jpeg import MAX_SCANS, check_scans
from pipeline.data.format.picture_files.orientation import orientation_of
from pipeline.data.format.picture_files.parts import DamageError, PictureFile, check_parts, check_size
from pipeline.data.format.picture_files.tags import (
    ORIENTATION,
    Layout,
    Tag,
    integers,
    next_directory,
    read_layout,
    read_tags,
)
from pipeline.errors import DataError
from pipeline.wording import counted

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, COMPRESSION, SAMPLES, PLANES = 256, 257, 259, 277, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
XMP = 700
KIND, PREVIEW, MOST_PREVIEWS = 254, 1, 32
PIXEL_TAGS = frozenset(
    (
        *(
            WIDTH,
            HEIGHT,
            258,
            COMPRESSION,
            262,
            266,
            STRIP_OFFSETS,
            SAMPLES,
            ROWS_PER_STRIP,
            STRIP_BYTES,
            PLANES,
        ),
        *(292, 293, 317, 320, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, 332, 334, 338, 339, 347),
        *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
    )
)
"""All that decoders need for the pixels of one image. Others hold metadata, previews and directories of more tags."""
COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 50000, 50001))
"""Not LZMA, whose header can ask for 4 GB, and not those that only some programs write."""
OLD_JPEG = 6
JPEGS = (OLD_JPEG, 7)


def read(content: bytes) -> PictureFile:
    """Read the first directory of a TIFF. Raises DataError for sizes and places that contradict each other."""
    layout = read_layout(content)
    tags: dict[int, Tag] = {}
    for tag in read_tags(content, layout):
        tags.setdefault(tag.number, tag)

    def numbers(tag: int) -> tuple[int, ...]:
        return integers(content, layout, tags[tag]) if tag in tags else ()

    width, height = (next(iter(numbers(number)), 0) for number in (WIDTH, HEIGHT))
    compression = next(iter(numbers(COMPRESSION)), 1)
    if compression not in COMPRESSIONS:
        raise DataError(
            f"it is a TIFF with the compression {compression}, which is not supported; convert it to PNG"
        )
    _check_parts_of(content, numbers, compression)
    orientation = next(iter(numbers(ORIENTATION)), 0)
    if not 1 <= orientation <= 8:
        xmp = tags.get(XMP)
        orientation = orientation_of(b"", content[xmp.start : xmp.start + xmp.bytes] if xmp else b"")
    return PictureFile("TIFF", width, height, orientation, frames_follow=_has_another(content, layout))


def _has_another(content: bytes, layout: Layout) -> bool:
    """Whether one of the next directories describes a picture of its own, and not a smaller version of the first."""
    with suppress(ValueError, struct.error):
        for _ in range(MOST_PREVIEWS):
            layout = replace(layout, first=next_directory(content, layout))
            if not layout.first:
                return False
            kinds = [
                integers(content, layout, tag) for tag in read_tags(content, layout) if tag.number == KIND
            ]
            if not any(kind[:1] and kind[0] & PREVIEW for kind in kinds):
                return True
    return False


def _check_parts_of(content: bytes, numbers: Callable[[int], tuple[int, ...]], compression: int) -> None:
    """Raise DataError unless the strips or tiles are as many and as long as the size says, and do not overlap."""

    def number(tag: int, default: int) -> int:
        return next(iter(numbers(tag)), default)

    width, height, is_tiled = number(WIDTH, 0), number(HEIGHT, 0), bool(numbers(TILE_WIDTH))
    check_size(width, height)
    across = max(1, number(TILE_WIDTH, 0)) if is_tiled else width
    down = max(1, number(TILE_HEIGHT, 0) if is_tiled else min(number(ROWS_PER_STRIP, height), height))
    check_size(across, down)
    planes = number(SAMPLES, 1) if number(PLANES, 1) == 2 else 1
    needed = -(-width // across) * -(-height // down) * planes
    check_parts(needed, "strips or tiles")
    found = numbers(TILE_OFFSETS if is_tiled else STRIP_OFFSETS)
    if len(found) != needed and compression != OLD_JPEG:
        parts = counted(needed, "tile" if is_tiled else "strip")
        raise DamageError(f"its size needs {parts}, but it has {len(found):,}")
    if sum(numbers(TILE_BYTES if is_tiled else STRIP_BYTES)) > 2 * len(content):
        raise DamageError("its strips or tiles have more bytes than the file")
    if compression in JPEGS:
        check_scans(content, across * down, most=MAX_SCANS * max(1, len(found)))


def only_pixels(content: bytes) -> bytes:
    """The file with one directory of the tags that decoders need for the pixels; it stands at the end."""
    layout = read_layout(content)
    tags: dict[int, Tag] = {}
    for tag in read_tags(content, layout):
        if tag.number in PIXEL_TAGS:
            tags.setdefault(tag.number, tag)
    entries = [
        layout.entry.pack(tag.number, tag.kind, tag.count, tag.stored) for _, tag in sorted(tags.items())
    ]
    body = content + bytes(len(content) % 2)
    start = body[: layout.head] + layout.offset.pack(len(body))
    directory = layout.count.pack(len(entries)) + b"".join(entries) + layout.offset.pack(0)
    return b"".join((start, body[len(start) :], directory))
