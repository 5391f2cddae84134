"""Indexes webdataset shards in place: writes an index next to each tar file, and a manifest of all of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.data.format.codecs import Header, read_jpeg_header, read_png_header
from pipeline.data.format.file_checks import file_sha256
from pipeline.data.format.manifest import FILE_NAME, Manifest, Shard, load_manifest
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.picture_files.parts import check_size
from pipeline.data.inspecting.check import decode_images
from pipeline.data.inspecting.shard_index import ShardIndex, index_rows, only_encoding
from pipeline.data.making.shard_directory import PLAN_NAME
from pipeline.data.sources import Remarks
from pipeline.data.sources.class_names import FILE_NAME as CLASS_NAMES
from pipeline.data.sources.labels import AUTO, LabelChoice
from pipeline.data.sources.leftovers import describe_frames, some
from pipeline.data.sources.listing import CONTAINER, LABEL, WHERE, Listing
from pipeline.data.sources.members import unreadable
from pipeline.data.sources.samples import Asked
from pipeline.data.sources.webdataset_shards import list_shards
from pipeline.data.threads import Advance, in_threads
from pipeline.durable import replacing
from pipeline.errors import ConfigError, DataError
from pipeline.regular_files import is_absent, open_regular, read_regular, regular_size


@dataclass(frozen=True)
class _Taken:
    """The result for one tar file."""

    shard: Shard
    index: bytes
    """The content of the index file."""
    header: Header
    first_key: str
    first_frames: list[str]
    """The keys of images of several frames, of which only the first is used."""


class Indexed(NamedTuple):
    """The manifest of an indexed set, and what of its directory is not used."""

    manifest: Manifest
    remarks: Remarks


@hidden_native_output()
def index_in_place(directory: Path, labels: LabelChoice = AUTO) -> Indexed:
    """Make the tar files in `directory` a shard set: write NAME.npy next to each and, last, manifest.json.

    The tar files do not change. Their images must be all PNG or all JPEG, of one size, and all grey or all colour;
    each is decoded once. Labels are read from KEY.cls, which all samples must have, or none; with `--labels none` they
    are not used. The class names are "0", "1" and so on, or the lines of classes.txt. Other members are skipped without
    being read, and are counted in the remarks. Nothing is written if any tar file is refused, and repeating the command
    changes nothing.

    Raises DataError if the images cannot be used as they are, ConfigError if another set or other files are in the
    way, and StorageError if the disk is full or not writable.
    """
    if not directory.is_dir():
        raise DataError(
            f"The directory {directory} does not exist. Give the directory that holds the tar files."
        )
    existing = _existing_manifest(directory)
    listing = list_shards(directory, Asked(labels))
    _refuse_other_labels(directory, listing)
    with tqdm(total=len(listing.keys), unit="image", desc="index", disable=None) as bar:
        take_in = partial(_take_in, directory, listing)
        taken = list(in_threads(take_in, np.unique(listing.rows[:, CONTAINER]).tolist(), bar))
    _refuse_differences(directory, taken)
    manifest = Manifest(
        source=directory.resolve().name,
        resolution=taken[0].header.shape[:2],
        channels=taken[0].header.shape[2],
        classes=listing.classes,
        encoding=taken[0].header.encoding,
        shards=tuple(shard.shard for shard in taken),
    )
    if existing is not None and existing != manifest:
        raise ConfigError(
            f"{directory / FILE_NAME} describes other shards: the tar files or {CLASS_NAMES} have changed since it "
            "was written. Remove it to index them again; runs that used the old set cannot be resumed with the new "
            "one."
        )
    for shard in taken:
        _write(directory / shard.shard.index, shard.index)
    _write(directory / FILE_NAME, manifest.to_json().encode())
    return Indexed(
        manifest, _with_frames(listing.remarks, [key for shard in taken for key in shard.first_frames])
    )


def _with_frames(remarks: Remarks, keys: Sequence[str]) -> Remarks:
    """The remarks, and how many images have more frames than the one that is used."""
    if not keys:
        return remarks
    return replace(remarks, left_out=(*remarks.left_out, describe_frames(len(keys), some(keys))))


def _refuse_other_labels(directory: Path, listing: Listing) -> None:
    """Raise DataError for labels that are not in KEY.cls, because an index is compared with the tar file alone."""
    if listing.classes and not listing.are_labels_in_files:
        raise DataError(
            f"{directory}: its images have labels by {listing.remarks.labels_from}, but an index takes labels only "
            f"from KEY.cls. Make shards of them (`wgan shards make {directory} OUT --resolution N`), or index them "
            "without labels: --labels none."
        )


def _existing_manifest(directory: Path) -> Manifest | None:
    """The manifest of an earlier call.

    Raises ConfigError if it is of another kind, or if shards are being made here.
    """
    if not is_absent(directory / PLAN_NAME):
        raise ConfigError(
            f"{directory} holds unfinished shards of `wgan shards make`. Run that command again to finish them."
        )
    if is_absent(directory / FILE_NAME):
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


def _take_in(directory: Path, listing: Listing, number: int, advance: Advance) -> _Taken:
    """Index the tar file with this number."""
    path = listing.containers[number].path
    places = np.flatnonzero(listing.rows[:, CONTAINER] == number)
    names = [listing.names[place] for place in places]
    keys = tuple(listing.keys[place].removeprefix(f"{path.name}/") for place in places)
    sizes_and_labels = listing.rows[places][:, [WHERE, WHERE + 1, LABEL]]
    encoding = only_encoding(path, names)
    if encoding == "raw":
        raise DataError(
            f"{path} holds .npy images, and only PNG and JPEG can be indexed in place. {_remedy(directory)}"
        )
    rows = index_rows(path, names, sizes_and_labels, encoding)
    members = ShardIndex(rows, keys, encoding, ())
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    index = path.with_suffix(".npy")
    _refuse_other_index(index, content.getvalue())
    header = _read_first_header(directory, path, members)
    first_frames = _decode_all(directory, path, members, header, advance)
    shard = Shard(
        name=path.name,
        count=len(rows),
        bytes=path.stat().st_size,
        sha256=file_sha256(path, lambda _: advance(0)),
        index=index.name,
        index_sha256=hashlib.sha256(content.getvalue()).hexdigest(),
    )
    return _Taken(shard, content.getvalue(), header, keys[0], first_frames)


def _refuse_other_index(index: Path, content: bytes) -> None:
    """Raise ConfigError if a file with the name of the index holds anything else."""
    if not (is_absent(index) or _holds(index, content)):
        raise ConfigError(
            f"{index} is not the index of the present {index.stem}.tar, so writing the index would overwrite it. "
            "Move it away, or remove it if it is the index of an older version of that file."
        )


def _read_first_header(directory: Path, path: Path, members: ShardIndex) -> Header:
    """The header of the first image, which all other images of the file must share."""
    offset, size, _, _ = members.rows[0].tolist()
    try:
        with open_regular(path, within=path.parent) as file:
            file.seek(offset)
            encoded = file.read(size)
    except OSError as error:
        raise unreadable(path, error) from None
    if members.encoding == "png":
        header = read_png_header(encoded)
    else:
        header = read_jpeg_header(np.frombuffer(encoded, dtype=np.uint8))
    if header is None or header.shape[2] == 4:
        raise DataError(
            f"{path}: the image {members.keys[0]!r} is not an 8-bit {members.encoding} in grey or RGB. "
            f"{_remedy(directory)}"
        )
    try:
        check_size(header.shape[1], header.shape[0])
    except DataError as error:
        raise DataError(f"{path}: the image {members.keys[0]!r}: {error}. {_remedy(directory)}") from None
    return header


def _decode_all(
    directory: Path, path: Path, members: ShardIndex, header: Header, advance: Advance
) -> list[str]:
    """The keys of images of several frames.

    Raises DataError at the first image that is damaged or differs from the first one in size or colour.
    """
    first_frames: list[str] = []
    images = decode_images(path, members.rows, header.shape, header.encoding)
    for key, image in zip(members.keys, images, strict=True):
        if image.defect is not None:
            raise DataError(f"{path}: the image {key!r}: {image.defect}. {_remedy(directory)}")
        first_frames += [key] if image.frames_follow else ()
        advance(1)
    return first_frames


def _refuse_differences(directory: Path, taken: Sequence[_Taken]) -> None:
    """Raise DataError unless all shards hold images of one kind."""
    first = taken[0]
    for shard in taken:
        path = directory / shard.shard.name
        if shard.header != first.header:
            raise DataError(
                f"{path}: the image {shard.first_key!r}: {shard.header} instead of {first.header}, as in "
                f"{first.shard.name}. {_remedy(directory)}"
            )


def _remedy(directory: Path) -> str:
    return (
        "Images can be indexed in place only if all are undamaged and of one kind. Use them as they are, with "
        f"data.resolution: `wgan shards index '{directory}/*.tar' OUT`; or rewrite them with `wgan shards make "
        f"{directory} OUT --resolution N`."
    )


def _write(path: Path, content: bytes) -> None:
    if is_absent(path) or not _holds(path, content):
        with replacing(path, is_shared=True) as file:
            file.write(content)


def _holds(path: Path, content: bytes) -> bool:
    """Whether this is a file of this content. Raises ConfigError if it is not a file that can be read."""
    try:
        if regular_size(path, within=path.parent) != len(content):
            return False
        return read_regular(path, len(content), within=path.parent) == content
    except OSError as error:
        raise ConfigError(
            f"{path} is in the way and cannot be read: {error.strerror}. Move it away, or check its permissions."
        ) from None
