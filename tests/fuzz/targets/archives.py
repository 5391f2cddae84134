"""Tar and zip files: as sources, indexed in place, checked, and as shards that are trained on."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.data.inspecting.check import check_shards
from pipeline.data.inspecting.index_in_place import index_in_place
from pipeline.data.sources import Spec, open_source
from tests.data.sources.helpers import (
    lmdb_branch,
    lmdb_large,
    lmdb_node,
    lmdb_of,
    lmdb_page,
    put_lsun,
)
from tests.fuzz.engine import target
from tests.fuzz.targets.arrays import read_source

BLOCK = 512


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


MEMBERS = [*((f"{number}.png", png(number)) for number in range(3)), ("folder/a.png", png(9))]
LABELLED = [
    member
    for number in range(3)
    for member in (
        (f"{number}.png", png(number)),
        (f"{number}.cls", b"%d" % number),
        (f"{number}.json", b"{}"),
    )
]


def tar(members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT, **attributes: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tar_seeds() -> list[bytes]:
    long = [(f"{'folder/' * 40}{name}", content) for name, content in MEMBERS]
    return [
        tar(MEMBERS),
        tar(LABELLED, tarfile.USTAR_FORMAT),
        tar(LABELLED, mtime=1.5, uname="ü", pax_headers={"comment": "a" * 100}),
        tar(long, tarfile.GNU_FORMAT),
        tar(long),
    ]


def repair_tar(data: bytes) -> bytes:
    """Correct the checksums of all blocks that look like a header."""
    repaired = bytearray(data)
    for place in range(0, len(data) - BLOCK + 1, BLOCK):
        block = repaired[place : place + BLOCK]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            repaired[place + 148 : place + 156] = b"%06o\0 " % sum(block)
    return bytes(repaired)


def zip_file(members: list[tuple[str, bytes]], method: int, comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.comment = comment
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def zip_seeds() -> list[bytes]:
    streamed = io.BytesIO()
    with zipfile.ZipFile(streamed, "w") as archive, archive.open("a.png", "w", force_zip64=True) as member:
        member.write(png(1))
    return [
        zip_file(MEMBERS, zipfile.ZIP_STORED),
        zip_file(
            [*MEMBERS, ("zeros.bmp", bytes(100_000)), ("folder/", b"")], zipfile.ZIP_DEFLATED, b"a comment"
        ),
        streamed.getvalue(),
    ]


def repair_zip(data: bytes) -> bytes:
    """Correct the place of the directory, so that a changed file is still found to be a zip file."""
    end, directory = data.rfind(b"PK\5\6"), data.find(b"PK\1\2")
    if end < 0 or directory < 0 or end + 22 > len(data) or directory > end:
        return data
    count = data.count(b"PK\1\2", 0, end)
    fields = struct.pack("<HHII", count & 0xFFFF, count & 0xFFFF, end - directory, directory)
    return data[: end + 8] + fields + data[end + 20 :]


@target("tar", tar_seeds, repair_tar)
def read_tar(data: bytes, directory: Path) -> None:
    (directory / "a.tar").write_bytes(data)
    read_source(directory / "a.tar")


def compressed_seeds() -> list[bytes]:
    content = tar(LABELLED)
    return [gzip.compress(content), bz2.compress(content), lzma.compress(content)]


@target("compressed-tar", compressed_seeds)
def read_compressed_tar(data: bytes, directory: Path) -> None:
    (directory / "a.tar.gz").write_bytes(data)
    (directory / "scratch").mkdir()
    read_source(directory / "a.tar.gz", scratch=directory / "scratch")


@target("zip", zip_seeds, repair_zip)
def read_zip(data: bytes, directory: Path) -> None:
    (directory / "a.zip").write_bytes(data)
    read_source(directory / "a.zip")


def lmdb_seeds() -> list[bytes]:
    """Besides a whole set: trees of several pages, of which some lead to the same places, or to none."""
    with tempfile.TemporaryDirectory() as directory:
        whole = (put_lsun(Path(directory)) / "data.mdb").read_bytes()
    leaf = lmdb_page(3, 2, [lmdb_node(b"a", png(1)), lmdb_node(b"b", struct.pack("<Q", 4), 1, len(png(2)))])
    large = lmdb_large(4, png(2))
    shared = lmdb_page(2, 2, [lmdb_node(b"a" * 400)], repeat=24)
    return [
        whole,
        lmdb_of(lmdb_page(2, 1, [lmdb_branch(3)]), leaf, large, entries=2),
        lmdb_of(
            lmdb_page(2, 1, [lmdb_branch(3), lmdb_branch(2)], repeat=100),
            leaf,
            large,
            entries=1 << 40,
            last=1 << 30,
        ),
        lmdb_of(shared, entries=1 << 40, last=1 << 30),
    ]


@target("lsun", lmdb_seeds)
def read_lsun(data: bytes, directory: Path) -> None:
    (directory / "bedroom_train_lmdb").mkdir()
    file = directory / "bedroom_train_lmdb" / "data.mdb"
    file.write_bytes(data)
    # With a hole behind, so that the number of its last page may be anything.
    os.truncate(file, max(len(data), 1 << 40))
    source = open_source(Spec("lsun-bedroom", directory))
    for position in range(min(4, len(source))):
        source.read(position)


@target("index", tar_seeds, repair_tar)
def index_a_tar(data: bytes, directory: Path) -> None:
    (directory / "a.tar").write_bytes(data)
    index_in_place(directory)
    assert check_shards(directory).is_valid
