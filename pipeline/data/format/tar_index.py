"""Builds the index of a shard from its tar file: the place, the label and the checksum of each image."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.format.codecs import EXTENSIONS, MAX_FILE_BYTES, Encoding
from pipeline.data.format.manifest import Index
from pipeline.data.format.tar_writer import END
from pipeline.errors import DataError

LABEL = "cls"
MAX_LABEL_DIGITS = 9
NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class ShardIndex:
    """The content of a tar file: `rows` int64 (samples, 4), the keys in the same order, and the images' encoding."""

    rows: Index
    keys: tuple[str, ...]
    encoding: Encoding
    ignored: int
    """The number of members that are neither an image nor a label."""


def index_shard(path: Path, ignores_others: bool = False) -> ShardIndex:
    """Build the index of an uncompressed tar file of images and KEY.cls members.

    Members of other kinds are skipped without being read if `ignores_others`; otherwise they are an error. Raises
    DataError for links, devices, sparse files, folders and names that lead out of the archive, if the images have
    several encodings, if a key appears twice, if a label is not a whole number, and if the file is truncated.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            samples, ignored = _group_members(archive, path, ignores_others)
            check_end(file, archive.offset, path)
            encoding = _only_encoding(samples, path)
            rows = [_index_row(file, path, key, members) for key, members in samples.items()]
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path} is not a complete, uncompressed tar file: {error}. Copy it again, or uncompress it."
        ) from None
    return ShardIndex(np.array(rows, dtype=np.int64).reshape(-1, 4), tuple(samples), encoding, ignored)


Members = dict[str, tarfile.TarInfo]


def _group_members(
    archive: tarfile.TarFile, path: Path, ignores_others: bool
) -> tuple[dict[str, Members], int]:
    """The members of each sample by extension, and the number of other members. A sample's members must be adjacent."""
    samples: dict[str, Members] = {}
    last, ignored = None, 0
    for member in archive:
        if member.isdir() and ignores_others:
            continue  # `tar cf x.tar folder` stores the folder before its files
        check_member(path, member)
        key, extension = split_name(member.name)
        if extension not in EXTENSIONS and extension != LABEL:
            if not ignores_others:
                raise DataError(
                    f"{path} holds {member.name!r}, but a shard holds only images ({', '.join(EXTENSIONS)}) and "
                    "KEY.cls. Make the shards again with `wgan shards make`."
                )
            ignored += 1
            continue
        if (key != last and key in samples) or extension in samples.get(key, {}):
            raise DataError(
                f"{path} holds {member.name!r} twice, or not next to the other members of the key {key!r}. Pack each "
                "key's files once and one after the other."
            )
        samples.setdefault(key, {})[extension] = member
        last = key
    return samples, ignored


def check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Raise DataError unless a member is a plain file of a plausible size whose name stays inside the archive."""
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not plain or member.size < 0:
        raise DataError(
            f"{path} holds {member.name!r}, which is a link, a folder, a device or a sparse file. A shard may hold "
            "only plain files: pack it again without this member."
        )
    if member.size > MAX_FILE_BYTES:
        raise DataError(
            f"{path} holds {member.name!r} of {member.size:,} bytes, which is too large for an image (limit: "
            f"{MAX_FILE_BYTES:,}). Pack the file without it."
        )
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise DataError(
            f"{path} holds {member.name!r}, whose name leads out of the archive and could be an attack. Do not use "
            "this file."
        )


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) by webdataset's rule: the extension starts at the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def check_end(file: IO[bytes], end: int, path: Path) -> None:
    """Raise DataError unless a tar file ends with two empty blocks.

    Readers do not notice if a file is truncated between two members.
    """
    file.seek(end)
    if file.read(len(END)) != END:
        raise DataError(
            f"{path} has no end mark after its last member: it was truncated or changed. Copy it again."
        )


def _only_encoding(samples: dict[str, Members], path: Path) -> Encoding:
    if not samples:
        raise DataError(f"{path} holds no samples. Copy it again, or remove it.")
    for key, members in samples.items():
        if len(list(_images(members))) != 1:
            raise DataError(
                f"{path} holds {_count_images(members)} for the key {key!r}, but a sample is exactly one image. Pack "
                "the file again."
            )
    found = {EXTENSIONS[extension] for members in samples.values() for extension in _images(members)}
    if len(found) != 1:
        raise DataError(
            f"{path} holds images of {len(found)} encodings ({', '.join(sorted(found))}), but a shard has only one. "
            "Convert them with `wgan shards make`."
        )
    return found.pop()


def _images(members: Members) -> Iterator[str]:
    return (extension for extension in members if extension in EXTENSIONS)


def _count_images(members: Members) -> str:
    count = len(list(_images(members)))
    return "a label but no image" if count == 0 else f"{count} images"


def _index_row(file: IO[bytes], path: Path, key: str, members: Members) -> tuple[int, int, int, int]:
    extension = next(_images(members))
    image = members[extension]
    file.seek(image.offset_data)
    content = file.read(image.size)
    skipped = len(content) - len(_pixels(content, path, key)) if EXTENSIONS[extension] == "raw" else 0
    content = content[skipped:]
    label = _read_label(file, path, members[LABEL]) if LABEL in members else -1
    return image.offset_data + skipped, len(content), label, zlib.crc32(content)


def _pixels(content: bytes, path: Path, key: str) -> bytes:
    """The pixels of a .npy file: everything after its header."""
    start = 10 + int.from_bytes(content[8:10], "little")
    if not content.startswith(NPY_MAGIC + b"\1\0") or b"'|u1'" not in content[:start]:
        raise DataError(
            f"{path}: the image {key!r} is not a .npy file of uint8 in format version 1.0. Convert it with `wgan "
            "shards make`."
        )
    return content[start:]


def _read_label(file: IO[bytes], path: Path, member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)
    text = file.read(min(member.size, MAX_LABEL_DIGITS + 1))
    if not text.isdigit() or len(text) > MAX_LABEL_DIGITS:
        raise DataError(
            f"{path} holds {text!r} in {member.name!r}, but a label is a whole number from 0 to "
            f"{10**MAX_LABEL_DIGITS - 1:,}. Write the number of the class."
        )
    return int(text)
