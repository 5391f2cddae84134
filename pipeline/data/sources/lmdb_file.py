"""Finds the values in an LMDB file with ordinary reads, which end in an error where the file is damaged or cut.

LMDB's own library maps the file into memory and trusts what is in it, so a damaged file ends the process. Here is read
what it writes on 64-bit little-endian machines: pages of one size, of which the first two say where the tree begins.

    page:    its number, 8 bytes; 2 unused; its kind, 2; the end of the table of its nodes and their beginning, 2 each,
             or, if a large value begins there, how many pages that has
    node:    the size of its value, 4 bytes; flags, 2; the size of its key, 2; the key; the value, or, if that is large,
             the number of the first of the pages that hold it. In a branch of the tree: the number of a page instead

What bounds time and memory is that no page is visited twice, that the keys ascend, and that the nodes of a page fit
into it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pipeline import stopping
from pipeline.regular_files import open_regular

MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, LARGE = 1, 2, 4
ELSEWHERE = 1
"""The flag of a node whose value has pages of its own"""
NO_ROOT = (1 << 64) - 1
PAGE_BYTES = frozenset(1 << power for power in range(9, 16))
MOST_KEY_BYTES = 511
HEADER_BYTES, NODE_BYTES = 16, 8

_PAGE = struct.Struct("<Q2xHH2x")
_META = struct.Struct("<II8x8xI44xIHH24xQQQQ")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")


class Value(NamedTuple):
    """Where the value of a key lies in the file, in bytes."""

    key: bytes
    offset: int
    size: int
    page: int
    """The first of its own pages, which begins HEADER_BYTES before it; 0 for a value in a leaf, as page 0 is none"""


class CutError(ValueError):
    """The file ends before its last page."""


class _Meta(NamedTuple):
    """What one of the first two pages says: the newer one counts."""

    magic: int
    version: int
    page_bytes: int
    root_pad: int
    flags: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


def find_values(path: Path) -> list[Value]:
    """All values in the order of their keys.

    Raises OSError if the file cannot be read, CutError if it ends too early, and ValueError, which says what is wrong,
    if it is no LMDB file or is damaged.
    """
    with open_regular(path) as file:
        meta = _read_meta(file)
        found, needed = os.fstat(file.fileno()).st_size, (meta.last_page + 1) * meta.page_bytes
        if found < needed:
            raise CutError(f"it has {found:,} of {needed:,} bytes")
        values = list(_walk(file, meta)) if meta.root != NO_ROOT else []
    if len(values) < meta.entries:
        raise ValueError(f"it has {len(values):,} of {meta.entries:,} values")
    _refuse_overlaps(values)
    return values


def read_value(file: IO[bytes], value: Value) -> bytes:
    """The content of a value; shorter than its size if the file has become so.

    Raises ValueError if the page of a large value is another one. Only here, because opening a set of millions of
    images must not read a page of each.
    """
    if not value.page:
        file.seek(value.offset)
        return file.read(value.size)
    file.seek(value.offset - HEADER_BYTES)
    content = file.read(HEADER_BYTES + value.size)
    if len(content) >= HEADER_BYTES:
        number, kind, _ = _PAGE.unpack_from(content)
        if (number, kind) != (value.page, LARGE):
            raise ValueError(f"no value begins on page {value.page:,}")
    return content[HEADER_BYTES:]


def _read_meta(file: IO[bytes]) -> _Meta:
    first = _unpack_meta(file.read(HEADER_BYTES + _META.size))
    file.seek(first.page_bytes)
    second = _unpack_meta(file.read(HEADER_BYTES + _META.size))
    meta = max(first, second, key=lambda meta: meta.transaction)
    if meta.page_bytes != first.page_bytes or meta.flags:
        raise ValueError("its first pages contradict each other")
    return meta


def _unpack_meta(page: bytes) -> _Meta:
    if len(page) < HEADER_BYTES + _META.size:
        raise ValueError("it is too short")
    meta = _Meta._make(_META.unpack_from(page, HEADER_BYTES))
    if (meta.magic, meta.version) != (MAGIC, VERSION) or meta.page_bytes not in PAGE_BYTES:
        raise ValueError("it does not begin like one")
    return meta


def _walk(file: IO[bytes], meta: _Meta) -> Iterator[Value]:
    """The values of the tree, from its first leaf to its last."""
    pending, seen = [meta.root], set[int]()
    last, count = b"", 0
    while pending:
        stopping.check()
        number = pending.pop()
        if number in seen:
            raise ValueError("its pages lead back to earlier ones")
        seen.add(number)
        page = _read_page(file, meta, number)
        stored, kind, end = _PAGE.unpack_from(page)
        table = (end - HEADER_BYTES) // 2
        if kind not in (BRANCH, LEAF) or not 0 <= end - HEADER_BYTES <= meta.page_bytes - HEADER_BYTES:
            raise ValueError("one of its pages is of an unknown kind")
        if stored != number:
            raise ValueError(f"page {number:,} has the number {stored:,}")
        places = struct.unpack_from(f"<{table}H", page, HEADER_BYTES)
        if max(places, default=0) + NODE_BYTES > meta.page_bytes:
            raise ValueError("a node lies outside of its page")
        if kind == BRANCH:
            pending += [_child(page, place) for place in reversed(places)]
            continue
        values = [_value(meta, page, number, place) for place in places]
        if sum(NODE_BYTES + len(value.key) for value in values) > meta.page_bytes:
            raise ValueError("its nodes overlap")
        count += len(values)
        if count > meta.entries:
            raise ValueError(f"it has more than its {meta.entries:,} values")
        for value in values:
            if value.key <= last:
                raise ValueError("its keys are not in order")
            last = value.key
        yield from values


def _read_page(file: IO[bytes], meta: _Meta, number: int) -> bytes:
    if number > meta.last_page:
        raise ValueError(f"it has no page {number:,}, to which another one leads")
    file.seek(number * meta.page_bytes)
    page = file.read(meta.page_bytes)
    if len(page) < meta.page_bytes:
        raise CutError("it became shorter while it was read")
    return page


def _child(page: bytes, place: int) -> int:
    low, high, highest, _ = _NODE.unpack_from(page, place)
    return int(low | high << 16 | highest << 32)


def _value(meta: _Meta, page: bytes, number: int, place: int) -> Value:
    low, high, flags, key_bytes = _NODE.unpack_from(page, place)
    size, start = low | high << 16, place + NODE_BYTES + key_bytes
    end = start + (_NUMBER.size if flags == ELSEWHERE else size)
    if flags not in (0, ELSEWHERE) or end > len(page):
        raise ValueError("a value lies outside of its page")
    if not 0 < key_bytes <= MOST_KEY_BYTES:
        raise ValueError(f"it has a key of {key_bytes:,} bytes")
    key = page[place + NODE_BYTES : start]
    if flags != ELSEWHERE:
        return Value(key, number * meta.page_bytes + start, size, 0)
    first = _NUMBER.unpack_from(page, start)[0]
    offset = first * meta.page_bytes + HEADER_BYTES
    if offset + size > (meta.last_page + 1) * meta.page_bytes:
        raise ValueError("a value lies outside of the file")
    if not first:
        raise ValueError("a value lies in its first page")
    return Value(key, offset, size, first)


def _refuse_overlaps(values: Sequence[Value]) -> None:
    """Raise ValueError if two keys lead to the same bytes, so that one image would be another one again."""
    starts = np.fromiter((value.offset for value in values), np.int64, len(values))
    sizes = np.fromiter((value.size for value in values), np.int64, len(values))
    order = np.argsort(starts)
    starts, sizes = starts[order], sizes[order]
    if (starts[:-1] + sizes[:-1] > starts[1:]).any():
        raise ValueError("two keys have the same value")
