"""Reads zip files safely: lists the members from the central directory, and reads the content of any of them.

Members are read by their offset and not with `zipfile`, which would parse the whole directory again in each process.
A member is uncompressed to at most the size that it declares, and must have that size and its CRC-32.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pipeline.data.format.boundary import parsing
from pipeline.data.format.git_lfs import POINTER, refuse_pointer
from pipeline.data.sources.members import Container, Members, Where, unreadable
from pipeline.errors import DataError
from pipeline.regular_files import open_regular

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
TAR_MARK, TAR_MARK_PLACE = b"ustar", 257
ENCRYPTED = 1 << 0
MEMBER = b"PK\3\4"
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
MAX_RATIO = 1000  # deflate reaches at most 1030, and only for constant bytes
SMALL_TOTAL, SMALL_MEMBER = 1 << 30, 1 << 26  # allowed at any ratio

# The columns of a member's place.
SIZE, STORED_BYTES, OFFSET, CRC, METHOD = range(5)


def list_zip(path: Path) -> Members:
    """The members of a zip file, each with (size, stored bytes, offset, CRC-32, method).

    Raises DataError if the file is damaged, truncated or joined of several zip files, if its contents are implausibly
    large (a zip bomb), and for members that are links, devices or encrypted, that have the same name, or whose name
    leads out of the archive.
    """
    members = Members(Container("zip", path, path, read_zip_member))
    try:
        with open_regular(path) as file:
            start = file.read(len(POINTER))
            refuse_pointer(path, start)
            _refuse_tar(path, file)
            size = file.seek(0, os.SEEK_END)
            with (
                parsing(path, "is not a complete zip file", "Copy it again."),
                zipfile.ZipFile(file) as archive,
            ):
                infos = archive.infolist()
    except OSError as error:
        raise unreadable(path, error) from None
    total = sum(info.file_size for info in infos)
    if total > SMALL_TOTAL and total > MAX_RATIO * size:
        raise DataError(
            f"{path} has {size:,} bytes and would take {total:,} when uncompressed, which is implausible for images. "
            "Do not use it unless you trust who made it; if you do, unpack it and give the folder."
        )
    for info in infos:
        _add(members, info, size)
    _refuse_overlap(members, infos)
    if start.startswith(MEMBER) and infos and min(info.header_offset for info in infos) > 0:
        raise DataError(
            f"{path} begins with members that its directory does not list, as in zip files that were joined with "
            "`cat`, so some of its content would be lost. Give the files one by one, or unpack them into one folder "
            "and give that."
        )
    return members


def _refuse_tar(path: Path, file: IO[bytes]) -> None:
    """Raise DataError for a tar file, which by itself would be an incomplete zip file."""
    file.seek(TAR_MARK_PLACE)
    if file.read(len(TAR_MARK)) == TAR_MARK:
        raise DataError(
            f"{path} is a tar file with the name of a zip file. Rename it: its name must end in .tar."
        )


def _add(members: Members, info: zipfile.ZipInfo, archive_bytes: int) -> None:
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was made on a system without file types
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise members.refusal(name, "is a link, a device or a pipe", "Only plain files are supported.")
    if name.endswith("/"):
        return members.add_folder(name)
    if info.flag_bits & ENCRYPTED:
        raise members.refusal(name, "is encrypted", "Passwords are not supported.")
    if info.compress_type not in METHODS:
        method = f"is compressed with method {info.compress_type}"
        raise members.refusal(name, method, "Only stored and deflated members are supported.")
    if info.file_size > SMALL_MEMBER and info.file_size > MAX_RATIO * info.compress_size:
        raise members.refusal(
            name,
            f"would grow from {info.compress_size:,} to {info.file_size:,} bytes when uncompressed",
            "This is implausible for an image.",
        )
    end = info.header_offset + _least_bytes(info)
    # Deflate never makes data much larger: if these limits are exceeded, the sizes are not real.
    if info.header_offset < 0 or end > archive_bytes or info.compress_size > 2 * info.file_size + 4096:
        raise members.refusal(
            name, "does not fit into the file, which was truncated or changed", "Copy it again."
        )
    where = (info.file_size, info.compress_size, info.header_offset, info.CRC, info.compress_type)
    return members.add_file(name, where)


def _refuse_overlap(members: Members, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Raise DataError if members share bytes: a small file could be any number of large ones."""
    before: zipfile.ZipInfo | None = None
    for info in sorted(infos, key=lambda info: info.header_offset):
        if before is not None and info.header_offset < before.header_offset + _least_bytes(before):
            name = info.orig_filename
            raise members.refusal(
                name, f"shares bytes with the member {before.orig_filename!r}", "This could be an attack."
            )
        before = info


def _least_bytes(info: zipfile.ZipInfo) -> int:
    """The bytes of a member in the file, at least: a header and the content."""
    return LOCAL_HEADER.size + info.compress_size


def read_zip_member(container: Container, key: str, where: Where) -> bytes:
    """The content of a member. Raises DataError, which names the key, if it does not match the directory."""
    path = container.path
    try:
        with open_regular(container.data) as file:
            file.seek(where[OFFSET])
            header = file.read(LOCAL_HEADER.size)
            if len(header) < LOCAL_HEADER.size or not header.startswith(MEMBER):
                raise _damaged(path, key, "it is not at the place given in the directory")
            _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            file.seek(name_bytes + extra_bytes, 1)
            content = file.read(where[STORED_BYTES])
        if where[METHOD] == zipfile.ZIP_DEFLATED:
            # At most one byte more than declared, which is enough to notice that there is more.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, where[SIZE] + 1)
    except OSError as error:
        raise DataError(f"{path}: {key} cannot be read: {error.strerror}. Check the file.") from None
    except zlib.error as error:
        raise _damaged(path, key, str(error)) from None
    if len(content) != where[SIZE] or zlib.crc32(content) != where[CRC]:
        raise _damaged(path, key, "its size or its CRC-32 differs from the one in the directory")
    return content


def _damaged(path: Path, key: str, reason: str) -> DataError:
    return DataError(f"{path}: {key} is damaged: {reason}. Copy the archive again.")
