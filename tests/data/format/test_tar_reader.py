"""Listing the members of a tar file: as other programs write them, and as nobody should."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable

import pytest

from pipeline.data.format.tar_reader import TarError, read_members
from pipeline.data.format.tar_writer import END, header

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar(*members: tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT, **options: object) -> bytes:
    """A tar file as Python writes it; the content of a member is its size in zeros."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind, **options) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return stream.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def special(kind: bytes, content: bytes) -> bytes:
    """A block of attributes before a member."""
    start = bytearray(header("x", len(content)))
    start[156:157] = kind
    return with_checksum(start) + content + bytes(-len(content) % 512)


def with_checksum(start: bytes | bytearray) -> bytes:
    changed = bytearray(start)
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def file(name: str, content: bytes = b"content") -> bytes:
    return header(name, len(content)) + content + bytes(-len(content) % 512)


def names(content: bytes) -> list[str]:
    return [member.name for member in read_members(io.BytesIO(content))]


def refusal(content: bytes) -> str:
    with pytest.raises(TarError) as caught:
        list(read_members(io.BytesIO(content)))
    return str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_members_are_those_that_python_lists(kind: str) -> None:
    prefix = "folder/" * 20 if kind == "ustar" else "folder/" * 60
    members = [
        member("a.png", 700),
        member("folder", 0, tarfile.DIRTYPE),
        member(f"{prefix}long.png", 512, mtime=1.5, uname="someone"),
        member("ünï-café.png", 3),
        member("last.cls", 1),
    ]
    content = tar(*members, kind=FORMATS[kind])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(info.name, info.size, info.offset_data) for info in archive]
    found = list(read_members(io.BytesIO(content)))
    assert [(info.name, info.size, info.start) for info in found] == expected
    assert [info.kind for info in found] == ["file", "folder", "file", "file", "file"]


def test_a_global_attribute_is_no_member() -> None:
    assert names(tar(member("a.png", 5), pax_headers={"comment": "0a1b2c"})) == ["a.png"]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"V", b"M", b"Z"])
def test_links_devices_sparse_and_unknown_members_are_of_other_kinds(kind: bytes) -> None:
    start = bytearray(header("a", 0))
    start[156:157] = kind
    (found,) = read_members(io.BytesIO(with_checksum(start) + END))
    assert found.kind == ("link" if kind in b"12346" else "odd")


def test_sparse_members_in_pax_attributes_are_odd() -> None:
    content = special(b"x", b"22 GNU.sparse.major=1\n") + file("a.png") + END
    assert [found.kind for found in read_members(io.BytesIO(content))] == ["odd"]


def test_a_member_of_gigabytes_has_its_size_in_binary() -> None:
    start = bytearray(header("a.png", 0))
    start[124:136] = b"\x80" + (9 << 30).to_bytes(11, "big")
    assert refusal(with_checksum(start) + END) == "it ends within the member 'a.png'"
    start[124:136] = b"\x80" + (7).to_bytes(11, "big")
    (found,) = read_members(io.BytesIO(with_checksum(start) + b"content".ljust(512, b"\0") + END))
    assert found.size == 7


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda whole: whole[:-1024], "it has no end mark after its last member"),
        (lambda whole: whole[:600], "it has no end mark after its last member"),
        (lambda whole: whole[:515], "it ends within the member 'a.png'"),
        (lambda whole: whole[:300], "it ends within a header"),
        (lambda whole: b"", "it has no end mark"),
        (lambda whole: b"\1" + whole[1:], "a header is damaged: its checksum is wrong"),
        (
            lambda whole: whole + whole,
            "it has more data after its end mark, for example because tar files were",
        ),
        (lambda whole: whole[:-1] + b"\1", "it has no end mark"),
        (
            lambda whole: with_checksum(whole[:124] + b"-0000000017\0" + whole[136:512]),
            "it ends within the mem",
        ),
        (
            lambda whole: with_checksum(whole[:124] + b"777777777777" + whole[136:512]),
            "it ends within the mem",
        ),
        (
            lambda whole: with_checksum(whole[:124] + b"9 xyz\0\0\0\0\0\0\0" + whole[136:512]),
            "a number in it is",
        ),
    ],
)
def test_a_damaged_tar_file_is_refused(change: Callable[[bytes], bytes], found: str) -> None:
    assert found in refusal(change(file("a.png") + END))


@pytest.mark.parametrize(
    "records",
    [
        b"5 a=b\n",
        b"7 a=b\n",
        b"0 a=b\n",
        b"-6 a=b\n",
        b"99999 a=b\n",
        b"6 ab\n",
        b"x",
        b"6",
        b"6 a=bc",
        b"\xff" * 40,
    ],
)
def test_damaged_attributes_are_refused(records: bytes) -> None:
    assert "attributes of a member are damaged" in refusal(special(b"x", records) + file("a.png") + END)


@pytest.mark.parametrize("size", [b"-1", b"x", b"9" * 40, b"\xd9\xa3"])
def test_a_size_that_is_no_size_is_refused(size: bytes) -> None:
    record = b" size=" + size + b"\n"
    record = b"%d" % (len(record) + 2) + record
    assert "is damaged: a size in it is not a number" in refusal(special(b"x", record) + file("a.png") + END)


def test_attributes_that_take_python_minutes_are_refused_or_read_at_once() -> None:
    started = time.monotonic()
    digits = special(b"x", b"1" * 500_000) + file("a.png") + END
    assert "attributes of a member are damaged" in refusal(digits)
    many = special(b"x", b"7 a=bc\n" * 70_000 + b"14 path=c.png\n") + file("a.png") + END
    assert names(many) == ["c.png"]
    large = special(b"x", b"7 a=bc\n" * 200_000) + file("a.png") + END
    assert "attributes of 1,400,000 bytes" in refusal(large)
    assert "attributes of 70,000 bytes" in refusal(special(b"L", b"n" * 70_000) + file("a.png") + END)
    assert names(special(b"x", b"7 a=bc\n") * 5000 + file("a.png") + END) == ["a.png"]
    assert time.monotonic() - started < 5
