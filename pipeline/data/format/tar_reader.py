"""Lists the members of a tar file: every header is read once, and nothing in it makes the reader work or allocate more.

Python's `tarfile` reads what a pax header asks for, for minutes and into any amount of memory, and needs ten times as
long for an ordinary header.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

from pipeline import stopping
from pipeline.data.format.tar_writer import BLOCK, END

Kind = Literal["file", "folder", "link", "odd"]
"""A link is also a device or a pipe; odd is a file that not all programs can read, such as a sparse one."""

MAX_NAME_BYTES = 1 << 16
MAX_RECORDS_BYTES = 1 << 20
"""Of the pax records before a member: a name and a size, and perhaps times and owners"""
FILES, FOLDER = frozenset((b"0", b"\0")), b"5"
LONG_NAME, LONG_LINK, RECORDS, GLOBAL_RECORDS = b"L", b"K", frozenset((b"x", b"X")), b"g"
WITHOUT_CONTENT = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
"""Links, devices, folders and pipes: their size says nothing"""
USTAR = b"ustar\0"

_HEADER = struct.Struct("100s24x12s12x8sc100s6s82x155s12x")


class TarError(ValueError):
    """The file is no complete tar file; the message says why, and `remedy` what to do."""

    remedy = "Copy it again."


class JoinedTarError(TarError):
    """Further tar files follow."""

    remedy = (
        "Unpack all of it into a folder (tar --ignore-zeros -xf), and give that folder, or pack it again: most readers "
        "would lose the images that follow."
    )


class TarMember(NamedTuple):
    """A member: its content are the `size` bytes from `start`."""

    name: str
    kind: Kind
    size: int
    start: int


def read_members(file: IO[bytes]) -> Iterator[TarMember]:
    """The members of an open tar file, in their order. What else there is besides files and folders says `Kind`.

    Raises TarError if a header is damaged, if the file ends before a member does or before its end mark, and if there
    is more after that mark, as in joined files.
    """
    length = file.seek(0, os.SEEK_END)
    place, name, records, everywhere = 0, "", dict[str, bytes](), dict[str, bytes]()
    while block := _block_at(file, place):
        stopping.check()
        header = _Header(block)
        start = place + BLOCK
        size = header.size if header.kind not in WITHOUT_CONTENT else 0
        if "size" in records and header.kind in FILES:
            size = _decimal(records["size"])
        if not 0 <= size <= length - start:
            raise TarError(f"it ends within the member {name or header.name!r}")
        place = start + -(-size // BLOCK) * BLOCK
        if header.kind == LONG_NAME:
            name = _text(_content(file, start, size, MAX_NAME_BYTES))
        elif header.kind in RECORDS:
            records = everywhere | _parse_records(_content(file, start, size, MAX_RECORDS_BYTES))
        elif header.kind == GLOBAL_RECORDS:
            everywhere |= _parse_records(_content(file, start, size, MAX_RECORDS_BYTES))
            records = dict(everywhere)
        elif header.kind != LONG_LINK:
            path = _text(records["path"]) if "path" in records else name or header.name
            is_sparse = any(key.startswith("GNU.sparse") for key in records)
            yield TarMember(path.rstrip("/"), _kind_of(header.kind, path, is_sparse), size, start)
            name, records = "", dict(everywhere)
    _check_end(file, place, length)


class _Header:
    """The fields of a header block that say what comes next. Raises TarError if its checksum is wrong."""

    def __init__(self, block: bytes) -> None:
        name, size, checksum, self.kind, _, magic, prefix = _HEADER.unpack(block)
        # The checksum is computed as if its own eight bytes were spaces; some programs add signed bytes.
        total = sum(block) - sum(checksum) + 8 * ord(" ")
        stored = _number(checksum)
        if stored != total and stored != total - 256 * sum(byte > 127 for byte in block):
            raise TarError("a header is damaged: its checksum is wrong")
        self.size = _number(size)
        self.name = _text(name)
        if magic == USTAR and prefix[0]:
            self.name = f"{_text(prefix)}/{self.name}"


def _block_at(file: IO[bytes], place: int) -> bytes | None:
    """The block at this place; None for the empty block of the end mark and at the end of the file."""
    file.seek(place)
    block = file.read(BLOCK)
    if not block or block.count(0) == BLOCK:
        return None
    if len(block) < BLOCK:
        raise TarError("it ends within a header")
    return block


def _content(file: IO[bytes], start: int, size: int, limit: int) -> bytes:
    if size > limit:
        raise TarError(f"it has a name or attributes of {size:,} bytes, more than the limit of {limit:,}")
    file.seek(start)
    return file.read(size)


def _kind_of(kind: bytes, path: str, is_sparse: bool) -> Kind:
    if kind == FOLDER or (kind in FILES and path.endswith("/")):
        return "folder"
    if kind in WITHOUT_CONTENT:
        return "link"
    return "file" if kind in FILES and not is_sparse else "odd"


def _number(field: bytes) -> int:
    """A number in octal digits, or, for large ones, in binary after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError:
        raise TarError("a header is damaged: a number in it is not one") from None


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise TarError("a header is damaged: a size in it is not a number")
    return int(value)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _parse_records(data: bytes) -> dict[str, bytes]:
    """The records "LENGTH KEY=VALUE" of a pax header, each with a newline at its end."""
    records: dict[str, bytes] = {}
    place, length = 0, len(data.rstrip(b"\0"))
    while place < length:
        digits, _, _ = data[place : place + 20].partition(b" ")
        end = place + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[place + len(digits) + 1 : end - 1].partition(b"=")
        if end <= place + len(digits) + 1 or data[end - 1 : end] != b"\n" or not equals:
            raise TarError("the attributes of a member are damaged")
        records[key.decode("utf-8", "surrogateescape")] = value
        place = end
    return records


def _check_end(file: IO[bytes], place: int, length: int) -> None:
    """Raise TarError unless the end mark is there, and only zeros follow it.

    Other readers do not notice if a file is cut between two members, nor that another tar file was joined to it.
    """
    file.seek(place)
    if file.read(len(END)) != END:
        raise TarError("it has no end mark after its last member: it was truncated or changed")
    while rest := file.read(1 << 20):
        stopping.check()
        if rest.count(0) != len(rest):
            raise JoinedTarError(
                "it has more data after its end mark, for example because tar files were joined with `cat`"
            )
