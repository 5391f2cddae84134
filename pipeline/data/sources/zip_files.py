"""Zip files, safely: their members from the central directory, and the content of any of them.

Contents are read by offset and not by `zipfile`, which would parse the whole directory again in each process.
What a member unfolds to is bounded by the size that it declares, and compared with it and with its CRC-32.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import Path

from pipeline.data.sources.members import Members, Where
from pipeline.errors import DataError

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1 << 0
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
MAX_RATIO = 1000  # deflate gives 1030 at most, and only for constant bytes
SMALL_TOTAL, SMALL_MEMBER = 1 << 30, 1 << 26  # what may unfold at any ratio

# Columns of where a member lies.
SIZE, STORED_BYTES, OFFSET, CRC, METHOD = range(5)


def list_zip(path: Path) -> Members:
    """The members of a zip file, each with (size, stored bytes, offset, CRC-32, method).

    Raises DataError where it is damaged or cut short, for archives that unfold absurdly, and for members that
    are links, devices or encrypted, or whose names lead elsewhere or come twice.
    """
    members = Members(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise DataError(f"{path} is not a whole zip file: {error}. Copy it again.") from None
    total = sum(info.file_size for info in infos)
    if total > SMALL_TOTAL and total > MAX_RATIO * size:
        raise DataError(
            f"{path} has {size:,} bytes and would unfold to {total:,}, which no set of images does. "
            "Do not use it unless you know who made it; then unpack it and give the folder."
        )
    for info in infos:
        _add(members, info, size)
    return members


def _add(members: Members, info: zipfile.ZipInfo, archive_bytes: int) -> None:
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive comes from a system without
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise members.refusal(name, "is a link, a device or a pipe", "Only plain files are read.")
    if info.is_dir():
        return members.add_folder(name)
    if info.flag_bits & ENCRYPTED:
        raise members.refusal(name, "is encrypted", "There is no way to give a password.")
    if info.compress_type not in METHODS:
        method = f"is compressed by method {info.compress_type}"
        raise members.refusal(name, method, "Only stored and deflated members are read.")
    if info.file_size > SMALL_MEMBER and info.file_size > MAX_RATIO * info.compress_size:
        raise members.refusal(
            name,
            f"would unfold from {info.compress_size:,} to {info.file_size:,} bytes",
            "No image does that.",
        )
    end = info.header_offset + LOCAL_HEADER.size + info.compress_size
    # Deflate never makes much more of less: beyond this the sizes are made up.
    if info.header_offset < 0 or end > archive_bytes or info.compress_size > 2 * info.file_size + 4096:
        raise members.refusal(name, "does not fit into the file, which was cut or changed", "Copy it again.")
    where = (info.file_size, info.compress_size, info.header_offset, info.CRC, info.compress_type)
    return members.add_file(name, where)


def read_zip_member(path: Path, key: str, where: Where) -> bytes:
    """The content of a member. Raises DataError, naming the key, where it is not what the directory says."""
    try:
        with path.open("rb") as file:
            file.seek(where[OFFSET])
            header = file.read(LOCAL_HEADER.size)
            if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise _damaged(path, key, "it is not where the directory says")
            _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            file.seek(name_bytes + extra_bytes, 1)
            content = file.read(where[STORED_BYTES])
        if where[METHOD] == zipfile.ZIP_DEFLATED:
            # One byte more than declared shows that there is more, and unfolds no more.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, where[SIZE] + 1)
    except OSError as error:
        raise DataError(f"{path}: {key} cannot be read: {error.strerror}.") from None
    except zlib.error as error:
        raise _damaged(path, key, str(error)) from None
    if len(content) != where[SIZE] or zlib.crc32(content) != where[CRC]:
        raise _damaged(path, key, "its size or its checksum is not the one that the directory says")
    return content


def _damaged(path: Path, key: str, reason: str) -> DataError:
    return DataError(f"{path}: {key} is damaged: {reason}. Copy the archive again.")
