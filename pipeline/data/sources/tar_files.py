"""Reads plain tar files safely: lists the members in one pass, and reads the content of any of them."""

from __future__ import annotations

import shlex
import tarfile
from pathlib import Path
from typing import IO

from pipeline.data.format.tar_index import check_end
from pipeline.data.sources.members import Members, Where
from pipeline.errors import DataError

PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}


def list_tar(path: Path) -> Members:
    """The members of an uncompressed tar file, each with (size, offset).

    Raises DataError if the file is compressed, damaged or truncated, and for members that are links, devices, pipes
    or sparse files, that have the same name, or whose name leads out of the archive.
    """
    members = Members(path)
    try:
        with path.open("rb") as file:
            _refuse_compressed(path, file.read(8))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    _add(members, member)
                    archive.members.clear()  # type: ignore[attr-defined]  # else a kilobyte of memory per member
                _check_end(file, archive.offset, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from None
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DataError(f"{path} is not a complete tar file: {error}. Copy it again.") from None
    return members


def _refuse_compressed(path: Path, start: bytes) -> None:
    for magic, tool in COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path} is compressed, so its images cannot be read in any order. Uncompress it first: {tool} < "
                f"{shlex.quote(str(path))} > unpacked.tar, then give unpacked.tar."
            )


def _add(members: Members, member: tarfile.TarInfo) -> None:
    if member.isdir():
        members.add_folder(member.name)
    elif member.type not in PLAIN or member.issparse() or member.size < 0:
        raise members.refusal(
            member.name, "is a link, a device, a pipe or a sparse file", "Only plain files are supported."
        )
    else:
        members.add_file(member.name, (member.size, member.offset_data))


def _check_end(file: IO[bytes], end: int, path: Path) -> None:
    check_end(file, end, path)
    while rest := file.read(1 << 20):
        if rest.count(0) != len(rest):
            raise DataError(
                f"{path} has more data after its end mark, for example because tar files were joined; the images in "
                "it would be lost. Pack the files again."
            )


def read_tar_member(path: Path, key: str, where: Where) -> bytes:
    """The content of a member. Raises DataError, which names the key, if it cannot be read.

    The file is opened each time: this takes almost no time compared with decoding an image, and there is no open
    file that threads or processes would have to share.
    """
    size, offset = where
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise DataError(f"{path}: {key} cannot be read: {error.strerror}. Check the file.") from None
    if len(content) != size:
        raise DataError(f"{path}: {key} is truncated: the file has changed since it was opened. Start again.")
    return content
