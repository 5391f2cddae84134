"""Checks a finished set of shards: every file, every index and every image; also finds duplicate images."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from pipeline.data.format.codecs import Bytes, Encoding, Shape, check_header, decode_into, read_header
from pipeline.data.format.file_checks import file_sha256
from pipeline.data.format.indexes import CHECKSUM, LABEL, Index, load_index
from pipeline.data.format.manifest import COPY, FILE_NAME, Manifest, Shard, load_manifest
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.picture_files.parts import PictureFile
from pipeline.data.inspecting.check_originals import check_originals
from pipeline.data.inspecting.shard_index import ShardIndex, index_shard
from pipeline.data.sources.labels import AUTO, LabelChoice
from pipeline.data.sources.leftovers import describe_frames, describe_left_out, some
from pipeline.data.sources.members import is_hidden
from pipeline.data.sources.webdataset_shards import OURS
from pipeline.data.threads import Advance, in_threads
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.regular_files import open_regular, regular_size
from pipeline.wording import counted

DIGEST_BYTES = 16
MOST_EXAMPLES = 5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Duplicates:
    """Images with the same bytes as an earlier image of the set: not a defect, but worth knowing."""

    copies: int = 0
    """The number of duplicates, not counting the first image of each group."""
    relabelled: int = 0
    """The number of duplicates whose label differs from that of the first image."""
    examples: tuple[str, ...] = ()
    """A few pairs, those with different labels first: "000000.tar 12 = 000003.tar 7"."""


@dataclass(frozen=True)
class Report:
    """What `check_shards` found."""

    manifest: Manifest
    findings: tuple[str, ...]
    """One line per defect, with the file and the place in it; empty if there are no defects."""
    duplicates: Duplicates
    remarks: tuple[str, ...]
    """Facts that are not defects, one line each: duplicates"""
    left_out: tuple[str, ...]
    """What the directory and its tar files hold besides, which is not used"""

    @property
    def is_valid(self) -> bool:
        """Whether there is no defect."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """The result in a few words: "valid", "valid, with 3 duplicates" or "damaged (2 defects)"."""
        if self.findings:
            return f"damaged ({counted(len(self.findings), 'defect')})"
        copies = self.duplicates.copies
        return f"valid, with {counted(copies, 'duplicate')}" if copies else "valid"


@dataclass
class _Checked:
    """The result for one shard. `digests`, `places` and `labels` are those of its undamaged images, 32 bytes each."""

    findings: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    first_frames: list[str] = field(default_factory=list)
    """Images of several frames, by their tar file and place"""
    digests: bytearray = field(default_factory=bytearray)
    places: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))

    def attempt(self, read: Callable[..., Result], *arguments: object, **options: object) -> Result | None:
        """Return what `read` returns; if it raises DataError, add that to the findings and return None."""
        try:
            return read(*arguments, **options)
        except DataError as error:
            self.findings.append(str(error))
            return None


@hidden_native_output()
def check_shards(directory: Path) -> Report:
    """Check every file against the manifest and every index against its tar file, and decode every image.

    All defects are collected; consecutive images with the same defect share a line. Images of originals are compared
    with their checksums, and not decoded. Needs 32 bytes of memory per image. Raises DataError only if the manifest
    cannot be read.
    """
    manifest = load_manifest(directory)
    if manifest.is_of_originals:
        return Report(manifest, tuple(check_originals(directory)), Duplicates(), (), ())
    check = partial(_check_shard, directory, manifest)
    with tqdm(total=manifest.count, unit="image", desc="check", disable=None) as bar:
        checked = list(in_threads(check, manifest.shards, bar))
    duplicates = _find_duplicates(manifest, checked)
    others = [name for shard in checked for name in shard.others]
    frames = [name for shard in checked for name in shard.first_frames]
    return Report(
        manifest,
        tuple(finding for shard in checked for finding in shard.findings),
        duplicates,
        tuple(_describe_duplicates(duplicates)),
        (
            *describe_left_out([], [*_unlisted(directory, manifest), *others], "not used"),
            *([describe_frames(len(frames), some(frames))] if frames else ()),
        ),
    )


class Decoded(NamedTuple):
    """The stored bytes of an image of a tar file, and what decoding them has shown."""

    content: bytes
    defect: str | None = None
    """What is damaged, or of another shape or encoding; metadata that say to turn an image are a defect too"""
    frames_follow: bool = False
    """Whether it is the first of several frames, of which the others are not used"""


def decode_images(path: Path, rows: Index, shape: Shape, encoding: Encoding) -> Iterator[Decoded]:
    """Decode each image of a tar file. Raises DataError if the file cannot be read."""
    pixels = np.empty(shape, dtype=np.uint8)
    try:
        with open_regular(path, within=path.parent) as file:
            for offset, size, _, checksum in rows.tolist():
                file.seek(offset)
                encoded = file.read(size)
                if len(encoded) != size:
                    yield Decoded(encoded, "truncated: the file ends before the image does")
                elif zlib.crc32(encoded) != checksum:
                    yield Decoded(
                        encoded, "its CRC-32 differs from the one in the index, so its bytes have changed"
                    )
                else:
                    yield _decode(encoded, pixels, encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def _decode(encoded: bytes, pixels: Bytes, encoding: Encoding) -> Decoded:
    try:
        decode_into(pixels, np.frombuffer(encoded, dtype=np.uint8), encoding)
        if encoding == "raw":
            return Decoded(encoded)
        picture = read_picture_file(encoded)
        if encoding == "jpeg":
            check_header(read_header(encoded, picture), pixels.shape)
        return Decoded(encoded, _why_not_as_stored(picture), picture.frames_follow)
    except DataError as error:
        return Decoded(encoded, str(error))


def _why_not_as_stored(picture: PictureFile) -> str | None:
    """Why training would see another image than other programs show: it uses the pixels as they are stored."""
    if picture.orientation != 1:
        return f"its metadata say to turn it (orientation {picture.orientation}), which needs a new file"
    if not picture.is_opaque:
        return "it is transparent in parts, and blending it with a background needs a new file"
    return None


def _check_shard(directory: Path, manifest: Manifest, shard: Shard, advance: Advance) -> _Checked:
    checked = _Checked()
    path, index = directory / shard.name, directory / shard.index
    is_there = _is_there(path, shard.sha256, shard.bytes, checked, advance)
    has_index = _is_there(index, shard.index_sha256, None, checked, advance)
    if not is_there:
        return checked
    stored = checked.attempt(load_index, directory, shard) if has_index else None
    found = None
    # Tar files of others may hold labels that are not used.
    labels = AUTO if manifest.plan or manifest.classes else LabelChoice("none")
    if members := checked.attempt(index_shard, path, ignores_others=not manifest.plan, labels=labels):
        found, checked.others = members.rows, list(members.others)
        checked.findings += _check_members(path, members, manifest, shard)
    if found is not None and stored is not None:
        checked.findings += _compare(index, stored, found)
    rows = _rows_to_check(stored, found)
    if rows is not None:
        checked.attempt(_check_images, path, rows, manifest, checked, advance)
    return checked


def _is_there(path: Path, sha256: str, size: int | None, checked: _Checked, advance: Advance) -> bool:
    """Whether there is such a file. If it has changed, that is added to the findings, and so is what else is there."""
    try:
        found = regular_size(path, within=path.parent)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        checked.findings.append(f"{path}: {'missing' if is_missing else error.strerror}")
        return False
    if size is not None and found != size:
        checked.findings.append(f"{path}: {counted(found, 'byte')} instead of {size:,}")
    digest = checked.attempt(file_sha256, path, lambda _: advance(0), path.parent)
    if digest not in (None, sha256):
        checked.findings.append(
            f"{path}: its SHA-256 differs from the one in {FILE_NAME}, so its content has changed"
        )
    return True


def _check_members(path: Path, members: ShardIndex, manifest: Manifest, shard: Shard) -> Iterator[str]:
    if len(members.rows) != shard.count:
        yield f"{path}: {counted(len(members.rows), 'sample')} instead of {shard.count:,}"
    if members.encoding != manifest.stored.encoding:
        yield f"{path}: its images are {members.encoding}, but {FILE_NAME} says {manifest.stored.encoding}"


def _compare(path: Path, stored: Index, found: Index) -> Iterator[str]:
    """Whether the index has the offsets, sizes and labels of the tar file; `_check_images` compares the checksums."""
    if len(stored) != len(found):
        return  # `_check_members` or the index has reported this
    wrong = np.flatnonzero((stored != found)[:, :CHECKSUM].any(axis=1))
    if len(wrong):
        row = wrong[0]
        yield (
            f"{path}: {len(wrong):,} of {counted(len(stored), 'row')} differ from the tar file; row {row} has the "
            f"offset, size and label {stored[row, :CHECKSUM].tolist()} instead of {found[row, :CHECKSUM].tolist()}"
        )


def _rows_to_check(stored: Index | None, found: Index | None) -> Index | None:
    """The places of the images in the tar file and the checksums of the index, or whichever of both can be read."""
    if stored is None or found is None:
        return stored if found is None else found
    if len(stored) != len(found):
        return found
    return np.column_stack([found[:, :CHECKSUM], stored[:, CHECKSUM]])


def _check_images(path: Path, rows: Index, manifest: Manifest, checked: _Checked, advance: Advance) -> None:
    checked.findings += _in_lines(path, _defective_images(path, rows, manifest, checked, advance))


def _defective_images(
    path: Path, rows: Index, manifest: Manifest, checked: _Checked, advance: Advance
) -> Iterator[tuple[int, str]]:
    """Yield the place and the defects of each defective image; the other images are added to `checked`."""
    resolution, channels, encoding = manifest.stored
    first, last = (0, len(manifest.classes) - 1) if manifest.classes else (-1, -1)
    images = decode_images(path, rows, (*resolution, channels), encoding)
    for place, (label, image) in enumerate(zip(rows[:, LABEL].tolist(), images, strict=True)):
        defects = [image.defect] if image.defect else []
        if not first <= label <= last:
            defects.append(
                f"label {label} is outside {first} to {last}"
                if manifest.classes
                else f"label {label} in a set without labels"
            )
        if defects:
            yield place, "; ".join(defects)
        else:
            checked.digests += hashlib.blake2b(image.content, digest_size=DIGEST_BYTES).digest()
            checked.places.append(place)
            checked.labels.append(label)
            checked.first_frames += [f"{path.name} {place}"] if image.frames_follow else ()
        advance(1)


def _in_lines(path: Path, defects: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Yield one line for each run of consecutive images with the same defect: a truncated file has thousands."""
    numbered = enumerate(defects)
    for (_, defect), run in groupby(numbered, lambda entry: (entry[1][0] - entry[0], entry[1][1])):
        places = [place for _, (place, _) in run]
        which = f"image {places[0]}" if len(places) == 1 else f"images {places[0]} to {places[-1]}"
        yield f"{path}: {which}: {defect}"


def _find_duplicates(manifest: Manifest, checked: Sequence[_Checked]) -> Duplicates:
    digests = np.frombuffer(b"".join(shard.digests for shard in checked), dtype=np.uint64).reshape(-1, 2)
    if not len(digests):
        return Duplicates()
    numbers = np.repeat(np.arange(len(checked)), [len(shard.places) for shard in checked])
    places = np.concatenate([shard.places for shard in checked])
    labels = np.concatenate([shard.labels for shard in checked])
    # The sort is stable, so the first of equal images is the first one in the set.
    order = np.lexsort((digests[:, 0], digests[:, 1]))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    firsts, copies = firsts[~is_first], order[~is_first]
    differ = labels[firsts] != labels[copies]

    def name(image: int, with_label: bool) -> str:
        label = f" ({printable(manifest.classes[labels[image]])})" if with_label else ""
        return f"{manifest.shards[numbers[image]].name} {places[image]}{label}"

    shown = np.lexsort((copies, ~differ))[:MOST_EXAMPLES]
    pairs = zip(firsts[shown], copies[shown], differ[shown], strict=True)
    examples = (f"{name(first, differs)} = {name(copy, differs)}" for first, copy, differs in pairs)
    return Duplicates(len(copies), int(differ.sum()), tuple(examples))


def _describe_duplicates(duplicates: Duplicates) -> Iterator[str]:
    if not duplicates.copies:
        return
    more = ", …" if duplicates.copies > len(duplicates.examples) else ""
    labels = f", {duplicates.relabelled:,} of them with another label" if duplicates.relabelled else ""
    yield f"{counted(duplicates.copies, 'duplicate')}{labels}: {', '.join(duplicates.examples)}{more}"


def _unlisted(directory: Path, manifest: Manifest) -> list[str]:
    """The visible files of the directory that the manifest does not list."""
    known = OURS.union(name for shard in manifest.shards for name in (shard.name, shard.index))
    return sorted(
        path.name for path in directory.iterdir() if path.name not in known and not is_hidden(path.name)
    )
