"""Webdataset shards taken in as they are: an index beside each tar file, and a manifest of them all."""

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

CLASSES_NAME = "classes.txt"
MOST_CLASSES = 100_000
LABEL = INDEX_COLUMNS.index("label")
ORIENTATION = 0x0112
PICKLES = (".pyd", ".pickle", ".pkl", ".pth", ".pt")
"""Members that common readers of webdatasets unpickle, which runs whatever code is in them."""


@dataclass(frozen=True)
class _Taken:
    """What one tar file gave."""

    shard: Shard
    index: bytes
    """The content of the index file."""
    header: Header
    first_key: str
    last_label: int
    """The largest; -1 where the samples have no labels."""
    others: Counter[str]
    """How many members are neither image nor label, by the end of their names."""


def index_in_place(directory: Path) -> Manifest:
    """Make a shard set of the tar files in `directory`: write NAME.npy beside each and, last, manifest.json.

    No tar file is touched. All images must be PNG, or all JPEG, of one size, and all grey or all in colour;
    each is decoded once. Labels come from KEY.cls, which all samples have or none; the classes are called
    "0", "1" and so on, or by the lines of classes.txt. Other members are passed over unopened. Nothing is
    written unless all of it can be, and doing it again changes nothing.

    Raises DataError where the images cannot be used as they are, ConfigError where another set or other
    files are in the way, StorageError where the disk is full or not writable.
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
            f"{directory / FILE_NAME} describes another set: the tar files or {CLASSES_NAME} have changed since. "
            "Remove it to take them in anew; to runs that have used it, that will be another set."
        )
    _warn_of_others(directory, taken)
    for shard in taken:
        _write(directory / shard.shard.index, shard.index)
    _write(directory / FILE_NAME, manifest.to_json().encode())
    return manifest


def _find_tars(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise DataError(f"There is no directory {directory}. Name the one that holds the tar files.")
    try:
        paths = sorted(path for path in directory.iterdir() if _is_tar(path))
    except OSError as error:
        raise DataError(f"{directory} cannot be read: {error.strerror}.") from None
    if not paths:
        raise DataError(
            f"{directory} holds no files NAME.tar, so there is nothing to take in. Compressed ones must be "
            "uncompressed first: images are read from the middle of the file."
        )
    return paths


def _is_tar(path: Path) -> bool:
    return path.suffix == ".tar" and not path.name.startswith(".") and path.is_file()


def _existing_manifest(directory: Path) -> Manifest | None:
    """The manifest of an earlier call. Raises ConfigError where it is another's, or shards are being made."""
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
            f"{directory} holds a {FILE_NAME} of another kind: {error} To take the tar files in, remove it first."
        ) from None
    if manifest.plan:
        raise ConfigError(
            f"{directory} holds a set of `wgan shards make`, which has its indexes: it can be used as it is."
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
            f"{path}: the sample {key!r} has no label, but others have one. Label all samples, or none."
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
    """Raise ConfigError where a file of the index's name holds anything else."""
    if not index.exists():
        return
    if not (index.is_file() and _holds(index, content)):
        raise ConfigError(
            f"{index} is in the way: it is not the index of {index.stem}.tar as it is now. Move it away, or remove it "
            "if it was made for the tar file of before."
        )


def _read_first_header(directory: Path, path: Path, members: ShardIndex) -> Header:
    """What all images of the file are to be."""
    offset, size, _, _ = members.rows[0].tolist()
    if members.encoding == "raw":
        raise DataError(f"{path} holds .npy files as images, not PNG or JPEG. {_remedy(directory)}")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            encoded = file.read(size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if members.encoding == "png":
        header = read_png_header(encoded[:33])
    else:
        header = read_jpeg_header(np.frombuffer(encoded, dtype=np.uint8))
    if header is None:
        raise DataError(
            f"{path}: the image {members.keys[0]!r} is no {members.encoding} of 8 bits in grey or RGB. "
            f"{_remedy(directory)}"
        )
    try:
        check_size(header.shape[1], header.shape[0])
    except DataError as error:
        raise DataError(f"{path}: the image {members.keys[0]!r}: {error}. {_remedy(directory)}") from None
    return header


def _decode_all(directory: Path, path: Path, members: ShardIndex, header: Header, advance: Advance) -> None:
    """Raise DataError at the first image that is not whole, or not as the first one."""
    images = decode_images(path, members.rows, header.shape, header.encoding)
    for key, (encoded, defect) in zip(members.keys, images, strict=True):
        if defect is None and _is_turned(encoded):
            defect = "a note of its camera says to turn it, which only rewriting does"
        if defect is not None:
            raise DataError(f"{path}: the image {key!r}: {defect}. {_remedy(directory)}")
        advance(1)


def _is_turned(encoded: bytes) -> bool:
    """Whether its EXIF data ask for it to be turned or mirrored."""
    if encoded.find(b"Exif\0\0", 0, 1 << 17) < 0 and b"eXIf" not in encoded:
        return False
    # The image was decoded already; Pillow's readers raise nearly anything on broken metadata.
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
    """Raise DataError unless all shards hold images of one kind, and labels in all of them or in none."""
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
                f"{has.shard.name} have one. Label all samples, or none."
            )


def _remedy(directory: Path) -> str:
    return (
        "Images are taken as they are only where all are whole and alike: rewrite them with "
        f"`wgan shards make {directory} OUT --resolution N`."
    )


def _name_classes(directory: Path, last_label: int) -> tuple[str, ...]:
    """The names for labels from 0 to `last_label`; none for -1."""
    path = directory / CLASSES_NAME
    names = _read_names(path) if path.exists() else None
    if names is None:
        if last_label >= MOST_CLASSES:
            raise DataError(
                f"{directory} holds the label {last_label}, and labels count classes from 0. Name the classes in "
                f"{CLASSES_NAME} if there are that many; else the labels are something else."
            )
        return tuple(str(label) for label in range(last_label + 1))
    if last_label < 0:
        raise DataError(f"{path} names classes, but no sample has a label KEY.cls. Remove it, or label them.")
    if len(names) <= last_label:
        raise DataError(
            f"{path} names {len(names)} classes, but there are labels up to {last_label}. Name {last_label + 1}, one a "
            "line."
        )
    return names


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). It holds one class name a line, in UTF-8."
        ) from None
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise DataError(f"{path} names {name or 'an empty line'!r} {times} times. Name each class once.")
    if "" in names:
        raise DataError(f"{path} has an empty line {names.index('') + 1}. Give one class name a line.")
    return names


def _warn_of_others(directory: Path, taken: Sequence[_Taken]) -> None:
    others = sum((shard.others for shard in taken), Counter[str]())
    if not others:
        return
    kinds = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in sorted(others.items()))
    print(f"warning: {directory}: members passed over unopened: {kinds}", file=sys.stderr)
    if pickles := [ending for ending in PICKLES if ending in others]:
        print(
            f"warning: {directory}: {' and '.join(pickles)} are pickles: nothing here opens them, but other readers "
            "of these tar files would run the code in them",
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
            f"{path} is in the way and cannot be read: {error.strerror}. Move it away."
        ) from None
