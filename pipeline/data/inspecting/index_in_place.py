"""Indexes webdataset shards in place: writes an index next to each tar file, and a manifest of all of them."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.data.format.codecs import EXTENSIONS, Header, read_jpeg_header, read_png_header
from pipeline.data.format.manifest import (
    FILE_NAME,
    INDEX_COLUMNS,
    Manifest,
    Shard,
    file_sha256,
    load_manifest,
)
from pipeline.data.format.tar_index import LABEL as LABEL_EXTENSION
from pipeline.data.format.tar_index import ShardIndex, index_shard, split_name
from pipeline.data.inspecting.check import decode_images
from pipeline.data.making.shard_directory import PLAN_NAME
from pipeline.data.sources.pictures import check_size
from pipeline.data.threads import Advance, in_threads
from pipeline.durable import replacing
from pipeline.errors import ConfigError, DataError
from pipeline.wording import counted

CLASSES_NAME = "classes.txt"
MOST_CLASSES = 100_000
LABEL = INDEX_COLUMNS.index("label")
ORIENTATION = 0x0112
PICKLES = (".pyd", ".pickle", ".pkl", ".pth", ".pt")
"""Members that common webdataset readers unpickle, which runs any code that they contain."""


@dataclass(frozen=True)
class _Taken:
    """The result for one tar file."""

    shard: Shard
    index: bytes
    """The content of the index file."""
    header: Header
    first_key: str
    last_label: int
    """The largest label; -1 if the samples have no labels."""
    others: Counter[str]
    """The number of members that are neither image nor label, by file ending."""


def index_in_place(directory: Path) -> Manifest:
    """Make the tar files in `directory` a shard set: write NAME.npy next to each and, last, manifest.json.

    The tar files do not change. Their images must be all PNG or all JPEG, of one size, and all grey or all colour;
    each is decoded once. Labels are read from KEY.cls, which all samples must have, or none. The class names are
    "0", "1" and so on, or the lines of classes.txt. Other members are skipped without being read. Nothing is written
    if any tar file is refused, and repeating the command changes nothing.

    Raises DataError if the images cannot be used as they are, ConfigError if another set or other files are in the
    way, and StorageError if the disk is full or not writable.
    """
    paths = _find_tars(directory)
    existing = _existing_manifest(directory)
    with tqdm(unit="image", desc="index", disable=None) as bar:
        taken = list(in_threads(partial(_take_in, directory), paths, bar))
    _refuse_differences(directory, taken)
    manifest = Manifest(
        source=directory.resolve().name,
        resolution=taken[0].header.shape[:2],
        channels=taken[0].header.shape[2],
        classes=_name_classes(directory, max(shard.last_label for shard in taken)),
        encoding=taken[0].header.encoding,
        shards=tuple(shard.shard for shard in taken),
    )
    if existing is not None and existing != manifest:
        raise ConfigError(
            f"{directory / FILE_NAME} describes other shards: the tar files or {CLASSES_NAME} have changed since it "
            "was written. Remove it to index them again; runs that used the old set cannot be resumed with the new "
            "one."
        )
    _warn_of_others(directory, taken)
    for shard in taken:
        _write(directory / shard.shard.index, shard.index)
    _write(directory / FILE_NAME, manifest.to_json().encode())
    return manifest


def _find_tars(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise DataError(
            f"The directory {directory} does not exist. Give the directory that holds the tar files."
        )
    try:
        paths = sorted(path for path in directory.iterdir() if _is_tar(path))
    except OSError as error:
        raise DataError(f"{directory} cannot be read: {error.strerror}. Check its permissions.") from None
    if not paths:
        raise DataError(
            f"{directory} holds no .tar files, so there is nothing to index. Uncompress compressed ones first: "
            "images are read from the middle of the file."
        )
    return paths


def _is_tar(path: Path) -> bool:
    return path.suffix == ".tar" and not path.name.startswith(".") and path.is_file()


def _existing_manifest(directory: Path) -> Manifest | None:
    """The manifest of an earlier call.

    Raises ConfigError if it is of another kind, or if shards are being made here.
    """
    if (directory / PLAN_NAME).exists():
        raise ConfigError(
            f"{directory} holds unfinished shards of `wgan shards make`. Run that command again to finish them."
        )
    if not (directory / FILE_NAME).exists():
        return None
    try:
        manifest = load_manifest(directory)
    except DataError as error:
        raise ConfigError(
            f"{directory} holds a {FILE_NAME} of another kind: {error} Remove it to index the tar files."
        ) from None
    if manifest.plan:
        raise ConfigError(
            f"{directory} was made by `wgan shards make` and already has its indexes: there is nothing to do."
        )
    return manifest


def _take_in(directory: Path, path: Path, advance: Advance) -> _Taken:
    members = index_shard(path, ignores_others=True)
    content = io.BytesIO()
    np.save(content, members.rows, allow_pickle=False)
    index = path.with_suffix(".npy")
    _refuse_other_index(index, content.getvalue())
    labels = members.rows[:, LABEL]
    if (labels < 0).any() and (labels >= 0).any():
        key = members.keys[int(np.flatnonzero(labels < 0)[0])]
        raise DataError(
            f"{path}: the sample {key!r} has no label, but others have one. Add KEY.cls to all samples, or to none."
        )
    header = _read_first_header(directory, path, members)
    _decode_all(directory, path, members, header, advance)
    shard = Shard(
        name=path.name,
        count=len(members.rows),
        bytes=path.stat().st_size,
        sha256=file_sha256(path, lambda _: advance(0)),
        index=index.name,
        index_sha256=hashlib.sha256(content.getvalue()).hexdigest(),
    )
    others = _count_others(path) if members.ignored else Counter()
    return _Taken(shard, content.getvalue(), header, members.keys[0], int(labels.max()), others)


def _refuse_other_index(index: Path, content: bytes) -> None:
    """Raise ConfigError if a file with the name of the index holds anything else."""
    if not index.exists():
        return
    if not (index.is_file() and _holds(index, content)):
        raise ConfigError(
            f"{index} is not the index of the present {index.stem}.tar, so writing the index would overwrite it. "
            "Move it away, or remove it if it is the index of an older version of that file."
        )


def _read_first_header(directory: Path, path: Path, members: ShardIndex) -> Header:
    """The header of the first image, which all other images of the file must share."""
    offset, size, _, _ = members.rows[0].tolist()
    if members.encoding == "raw":
        raise DataError(
            f"{path} holds .npy images, and only PNG and JPEG can be indexed in place. {_remedy(directory)}"
        )
    try:
        with path.open("rb") as file:
            file.seek(offset)
            encoded = file.read(size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    if members.encoding == "png":
        header = read_png_header(encoded[:33])
    else:
        header = read_jpeg_header(np.frombuffer(encoded, dtype=np.uint8))
    if header is None:
        raise DataError(
            f"{path}: the image {members.keys[0]!r} is not an 8-bit {members.encoding} in grey or RGB. "
            f"{_remedy(directory)}"
        )
    try:
        check_size(header.shape[1], header.shape[0])
    except DataError as error:
        raise DataError(f"{path}: the image {members.keys[0]!r}: {error}. {_remedy(directory)}") from None
    return header


def _decode_all(directory: Path, path: Path, members: ShardIndex, header: Header, advance: Advance) -> None:
    """Raise DataError at the first image that is damaged or differs from the first one in size or colour."""
    images = decode_images(path, members.rows, header.shape, header.encoding)
    for key, (encoded, defect) in zip(members.keys, images, strict=True):
        if defect is None and _is_turned(encoded):
            defect = "its EXIF data say to rotate it, which needs a new file"
        if defect is not None:
            raise DataError(f"{path}: the image {key!r}: {defect}. {_remedy(directory)}")
        advance(1)


def _is_turned(encoded: bytes) -> bool:
    """Whether the EXIF data of an image say to rotate or mirror it."""
    if encoded.find(b"Exif\0\0", 0, 1 << 17) < 0 and b"eXIf" not in encoded:
        return False
    # The image itself could be decoded; on broken metadata Pillow may raise almost any exception.
    with suppress(Exception):
        exif = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")).getexif()
        return exif.get(ORIENTATION) in range(2, 9)
    return False


def _count_others(path: Path) -> Counter[str]:
    with tarfile.open(path, "r:") as archive:
        names = (
            name for name in archive.getnames() if split_name(name)[1] not in (*EXTENSIONS, LABEL_EXTENSION)
        )
        return Counter(PurePosixPath(name).suffix.lower() for name in names)


def _refuse_differences(directory: Path, taken: Sequence[_Taken]) -> None:
    """Raise DataError unless all shards hold images of one kind, and either all or none of them have labels."""
    first = taken[0]
    for shard in taken:
        path = directory / shard.shard.name
        if shard.header != first.header:
            raise DataError(
                f"{path}: the image {shard.first_key!r}: {shard.header} instead of {first.header}, as in "
                f"{first.shard.name}. {_remedy(directory)}"
            )
        if (shard.last_label < 0) != (first.last_label < 0):
            has, lacks = (first, shard) if shard.last_label < 0 else (shard, first)
            raise DataError(
                f"{directory / lacks.shard.name}: the sample {lacks.first_key!r} has no label, but those of "
                f"{has.shard.name} have one. Add KEY.cls to all samples, or to none."
            )


def _remedy(directory: Path) -> str:
    return (
        "Images can be indexed in place only if all are undamaged and of one kind: rewrite them with `wgan shards "
        f"make {directory} OUT --resolution N`."
    )


def _name_classes(directory: Path, last_label: int) -> tuple[str, ...]:
    """The class names for labels from 0 to `last_label`; empty for -1."""
    path = directory / CLASSES_NAME
    names = _read_names(path) if path.exists() else None
    if names is None:
        if last_label >= MOST_CLASSES:
            raise DataError(
                f"{directory} holds the label {last_label}, but labels number the classes from 0. If there really "
                f"are that many classes, name them in {CLASSES_NAME}; otherwise correct the labels."
            )
        return tuple(str(label) for label in range(last_label + 1))
    if last_label < 0:
        raise DataError(
            f"{path} names classes, but no sample has a label. Remove it, or add KEY.cls to all samples."
        )
    if len(names) <= last_label:
        raise DataError(
            f"{path} names {counted(len(names), 'class')}, but there are labels up to {last_label}. Give "
            f"{counted(last_label + 1, 'name')}, one per line."
        )
    return names


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Write one class name per line, in UTF-8."
        ) from None
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise DataError(f"{path} names {name or 'an empty line'!r} {times} times. Name each class once.")
    if "" in names:
        raise DataError(f"{path}: line {names.index('') + 1} is empty. Write one class name per line.")
    return names


def _warn_of_others(directory: Path, taken: Sequence[_Taken]) -> None:
    others = sum((shard.others for shard in taken), Counter[str]())
    if not others:
        return
    kinds = ", ".join(
        f"{count:,} {ending or 'without an ending'}" for ending, count in sorted(others.items())
    )
    count = counted(others.total(), "member")
    print(f"warning: {directory}: {count} skipped, neither image nor label: {kinds}", file=sys.stderr)
    if pickles := [ending for ending in PICKLES if ending in others]:
        print(
            f"warning: {directory}: {' and '.join(pickles)} files are pickles. They are never opened here, but other "
            "readers of these tar files would run any code in them",
            file=sys.stderr,
        )


def _write(path: Path, content: bytes) -> None:
    if not (path.exists() and _holds(path, content)):
        with replacing(path, is_shared=True) as file:
            file.write(content)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError as error:
        raise ConfigError(
            f"{path} is in the way and cannot be read: {error.strerror}. Move it away, or check its permissions."
        ) from None
