"""Reads tar files safely: lists the members in one pass, and reads the content of any of them."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from pipeline.data.format.git_lfs import POINTER, refuse_pointer
from pipeline.data.format.tar_reader import TarError, read_members
from pipeline.data.sources.compressed import command, tool_for, unpack
from pipeline.data.sources.members import Container, Members, Where, unreadable
from pipeline.errors import DataError
from pipeline.regular_files import open_regular

ZIP_START = b"PK\3\4"


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
    is_zip = file.read(len(ZIP_START)) == ZIP_START
    if is_zip:
        raise DataError(
            f"{members.path} is a zip file with the name of a tar file. Rename it: its name must end in .zip."
        )
    try:
        for name, kind, size, start in read_members(file):
            if kind == "file":
                members.add_file(name, (size, start))
            elif kind == "folder":
                members.add_folder(name)
            else:
                what = "is a link, a device, a pipe or a sparse file"
                raise members.refusal(name, what, "Only plain files are supported.")
    except TarError as error:
        raise DataError(f"{members.path} is not a complete tar file: {error}. {error.remedy}") from None
    return members


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
