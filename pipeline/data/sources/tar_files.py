"""Reads tar files safely: lists the members in one pass, and reads the content of any of them."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

from pipeline import stopping
from pipeline.data.format.git_lfs import POINTER, refuse_pointer
from pipeline.data.format.tar_writer import END
from pipeline.data.sources.compressed import command, tool_for, unpack
from pipeline.data.sources.members import Container, Members, Where, unreadable
from pipeline.errors import DataError
from pipeline.regular_files import open_regular

PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
BLOCK_BYTES = 1 << 20


def list_tar(path: Path, within: Path | None = None, scratch: Path | None = None) -> Members:
    """The members of a tar file, each with (size, offset). A compressed one is unpacked to `scratch`, if that is given.

    `within` is the folder of the set that the file belongs to, out of which it must not lead. Raises DataError if the
    file is compressed and there is no scratch, if it is damaged, truncated or joined of several tar files, and for
    members that are links, devices, pipes or sparse files, that have the same name, or whose name leads out of the
    archive.
    """
    try:
        with open_regular(path, within) as file:
            start = file.read(len(POINTER))
            file.seek(0)
            refuse_pointer(path, start)
            tool = tool_for(start)
            if tool is None:
                return _list(Members(Container("tar", path, path, read_tar_member)), file)
            if scratch is None:
                raise DataError(
                    f"{path} is compressed, so its images cannot be read in any order. {command(path, tool)}"
                )
            data = unpack(path, tool, file, scratch)
        with open_regular(data) as file:
            return _list(Members(Container("tar", path, data, read_tar_member)), file)
    except OSError as error:
        raise unreadable(path, error) from None


def _list(members: Members, file: IO[bytes]) -> Members:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                stopping.check()
                _add(members, member)
                archive.members.clear()  # type: ignore[attr-defined]  # else a kilobyte of memory per member
            _check_end(file, archive.offset, members.path)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DataError(f"{members.path} is not a complete tar file: {error}. Copy it again.") from None
    return members


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
    """Raise DataError unless a tar file ends with two empty blocks, and only zeros follow them.

    Readers do not notice if a file is truncated between two members, nor that another tar file was joined to it.
    """
    file.seek(end)
    if file.read(len(END)) != END:
        raise DataError(
            f"{path} has no end mark after its last member: it was truncated or changed. Copy it again."
        )
    while rest := file.read(BLOCK_BYTES):
        stopping.check()
        if rest.count(0) != len(rest):
            raise DataError(
                f"{path} has more data after its end mark, for example because tar files were joined with `cat`: most "
                "readers would lose the images in it. Unpack all of it into a folder (tar --ignore-zeros -xf), and "
                "give that folder, or pack it again."
            )


def read_tar_member(container: Container, key: str, where: Where) -> bytes:
    """The content of a member. Raises DataError, which names the key, if it cannot be read.

    The file is opened each time: this takes almost no time compared with decoding an image, and there is no open
    file that threads or processes would have to share.
    """
    size, offset = where[:2]
    try:
        with open_regular(container.data) as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise DataError(
            f"{container.path}: {key} cannot be read: {error.strerror}. Check the file."
        ) from None
    if len(content) != size:
        raise DataError(
            f"{container.path}: {key} is truncated: the file has changed since it was opened. Start again."
        )
    return content
