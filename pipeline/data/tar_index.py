"""The index of a shard, read off the tar file itself: where each image is, and its label."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError

TAR_BLOCK = 512
MEMBERS = ("png", "cls")
MAX_LABEL_DIGITS = 9


def index_shard(path: Path) -> npt.NDArray[np.int64]:
    """Read the index of an uncompressed tar file of KEY.png and KEY.cls members off the file itself.

    Returns int64 (samples, 3): offset and bytes of each image, and its label or -1. Raises DataError for
    members of any other kind, for keys that come twice, and where the file is cut short.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            samples = _group_members(archive, path)
            _check_end(file, archive.offset, path)
            rows = [_index_row(file, path, key, members) for key, members in samples.items()]
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path} is not a whole, uncompressed tar file: {error}.") from None
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _group_members(archive: tarfile.TarFile, path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members of each sample by key and extension; a sample's members lie side by side."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    last = None
    for member in archive:
        _check_member(path, member)
        key, extension = _split_name(member.name)
        if extension not in MEMBERS:
            raise DataError(f"{path} holds {member.name!r}; a shard holds KEY.png and KEY.cls only.")
        if (key != last and key in samples) or extension in samples.get(key, {}):
            raise DataError(
                f"{path} holds {member.name!r} of the key {key!r} twice, or apart from its sample."
            )
        samples.setdefault(key, {})[extension] = member
        last = key
    return samples


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not plain or member.size < 0:
        raise DataError(
            f"{path} holds {member.name!r}, which is a link, a folder, a device or a sparse file. "
            "A shard holds plain files only."
        )


def _split_name(name: str) -> tuple[str, str]:
    """The webdataset rule: the extension starts at the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _check_end(file: IO[bytes], end: int, path: Path) -> None:
    """A tar file ends in two empty blocks; readers take one that is cut between members for whole."""
    file.seek(end)
    if file.read(2 * TAR_BLOCK) != bytes(2 * TAR_BLOCK):
        raise DataError(f"{path} has no end mark after its last whole member: it was cut short or changed.")


def _index_row(
    file: IO[bytes], path: Path, key: str, members: dict[str, tarfile.TarInfo]
) -> tuple[int, int, int]:
    if "png" not in members:
        raise DataError(f"{path} holds a label but no image for the key {key!r}.")
    image = members["png"]
    label = _read_label(file, path, members["cls"]) if "cls" in members else -1
    return image.offset_data, image.size, label


def _read_label(file: IO[bytes], path: Path, member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)
    text = file.read(min(member.size, MAX_LABEL_DIGITS + 1))
    if not text.isdigit() or len(text) > MAX_LABEL_DIGITS:
        raise DataError(f"{path} holds {text!r} in {member.name!r}; a label is a whole number from 0 on.")
    return int(text)
